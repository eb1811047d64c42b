"""A pair: a target, an optional draft, and one tokenizer for both."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mlx.nn.layers.base import Module

from helix_mlx.errors import SettingsError
from helix_mlx.kernels.cpu.choice import NO_KERNELS, CpuKernels
from helix_mlx.kernels.cpu.layers import replace_layers
from helix_mlx.models.generation import GenerationConfig, own_eos_ids, read_generation_config
from helix_mlx.models.loader import LoadedModel, fetch, fetch_target, load
from helix_mlx.models.mtp.load import head_of, load_head
from helix_mlx.models.mtp.weights import is_sidecar
from helix_mlx.models.pairs import DEMONSTRATION, named_pair
from helix_mlx.models.probe import check_rows
from helix_mlx.models.text.shared_vocabulary import SharedVocabulary
from helix_mlx.models.text.tokenizer import Tokenizer
from helix_mlx.models.text.vocabulary import compare
from helix_mlx.recurrent.install import install
from helix_mlx.types import Notice


@dataclass(frozen=True, repr=False)
class Pair:
    """What an engine runs. The draft may be a multi-token-prediction head of the target in the place of a model.
    `name` is what people are shown; `kernels`, what its products are done by on a CPU;
    `generation`, what the target's makers want where the user sets nothing.
    """

    name: str
    target: LoadedModel
    draft: LoadedModel | None
    tokenizer: Tokenizer
    is_demo: bool = False
    kernels: CpuKernels = NO_KERNELS
    generation: GenerationConfig = field(default_factory=GenerationConfig)

    def __repr__(self) -> str:
        draft = self.draft.source if self.draft else "none"
        return f"<Pair {self.name}: target {self.target.source}, draft {draft}>"

    def with_kernels(self, kernels: CpuKernels) -> Pair:
        """This pair with layers by those kernels: its models are changed for good."""
        if kernels.library is not None:
            for loaded in (self.target, self.draft):
                if loaded is not None and isinstance(loaded.model, Module):
                    replace_layers(loaded.model, kernels.library)
                    install(loaded.model, kernels.library)
        return replace(self, kernels=kernels)

    def check(self) -> None:
        """See that both models say the same in one pass of several tokens as in single steps: four passes each.

        Raises:
            ModelError: one does not, or it cannot run on this device.
        """
        for loaded in (self.target, self.draft):
            if loaded is not None and head_of(loaded) is None:
                model = loaded.model.draft if isinstance(loaded.model, SharedVocabulary) else loaded.model
                check_rows(model, loaded.probed, loaded.config)


def load_pair(
    name: str | None = None,
    *,
    target: str | None = None,
    draft: str | None = None,
    trust_remote_code: bool = False,
    notice: Notice | None = None,
    generation_config: bool = True,
    draft_model: bool = True,
    head: bool = False,
) -> Pair:
    """Load a named pair, or a target with a draft of one's own choice.

    Args:
        name: a pair of `helix-mlx pairs`; with neither `name` nor `target`, the built-in one.
        target, draft: folders, repositories, GGUF files and the like, as `fetch` takes them; `draft` may be "none".
            With `name`, `draft` takes the place of the pair's own draft.
        trust_remote_code: allow models that bring Python code of their own.
        notice: is told what takes a while, and of files in a model's folder that are left alone.
        generation_config: whether the target's generation_config.json counts, with its end tokens.
        draft_model: whether a draft model may be used; without it there is none.
        head: whether the target's own multi-token-prediction head may be used, which goes behind a draft model.

    Raises:
        SettingsError: there is no such pair, or both a pair and a target are named.
        ModelError: a model cannot be loaded.
        PairError: draft and target have too little vocabulary in common.
    """
    if name is not None and target is not None:
        raise SettingsError("give either a pair or a target, not both")
    is_demo = False
    if target is None:
        named = named_pair(name or DEMONSTRATION)
        is_demo = named.packaged
        name, target, draft = named.name, fetch_target(named, notice), named.draft if draft is None else draft
    if draft == "none":
        draft = None
    loaded_target = load(target, trust_remote_code=trust_remote_code, notice=notice)
    folder, eos_ids, generation = loaded_target.folder, loaded_target.config.get("eos_token_id"), GenerationConfig()
    if generation_config:
        generation = read_generation_config(folder)
    else:
        eos_ids = own_eos_ids(folder)
    tokenizer = Tokenizer.load(folder, eos_ids, trust_remote_code=trust_remote_code)
    loaded_draft = None
    drafts_in = fetch(draft, notice) if draft is not None and (draft_model or head) else None
    if draft is not None and drafts_in is not None and is_sidecar(drafts_in):
        loaded_draft = load_head(draft, drafts_in, loaded_target, notice) if head else None
    elif draft is None or drafts_in is None or not draft_model:
        loaded_draft = load_head(target, folder, loaded_target, notice) if head else None
    else:
        told = None if draft == target else notice
        loaded_draft = load(draft, trust_remote_code=trust_remote_code, notice=told, folder=drafts_in)
        same = loaded_draft.folder == loaded_target.folder
        drafts = tokenizer if same else Tokenizer.load(loaded_draft.folder, None, trust_remote_code=trust_remote_code)
        loaded_draft = fitted(loaded_draft, loaded_target, tokenizer, drafts)
    return Pair(name or target, loaded_target, loaded_draft, tokenizer, is_demo, generation=generation)


def fitted(
    draft: LoadedModel, target: LoadedModel, target_tokenizer: Tokenizer, draft_tokenizer: Tokenizer
) -> LoadedModel:
    """The draft as the target's partner: as it is where ids mean the same, else behind the tokens that both have.

    Raises:
        PairError: the vocabularies have too little in common.
    """
    if compare(target_tokenizer, draft_tokenizer).kind != "shared":
        return draft
    model = SharedVocabulary.of(draft.model, target_tokenizer, draft_tokenizer, target.vocab_size)
    return replace(draft, model=model, probed=replace(draft.probed, vocab_size=target.vocab_size))
