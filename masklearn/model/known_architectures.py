"""Table of architectures whose parts have names that are known, in transformers' modules and in checkpoints.

Other decoders need no row: `structure` finds the same names in the model that transformers builds.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Architecture:
    """Module names of a transformers model whose blocks run one after the other.

    base: the model below the head ("" for the whole model); embedding: of the tokens; blocks: the ModuleList of blocks;
    tail: modules after the blocks in order, some of which a model may lack; head: the output head, a module of the tail,
    whose weight may be the embedding's.
    prefixes: prefixes of names; module names have the first, and checkpoints may have any other in its place;
    spellings: (regular expression, replacement) pairs that turn module names into names of other checkpoints.
    linears: names of all linears of a block in the order of the model, relative to the block; () if only building the model
    finds them, as with experts; before: linears before the blocks, which a model may lack.
    conv1d: True if linears of the blocks are `Conv1D`, whose tensor is [K, N]; gates: ends of the names of linears that
    route tokens to experts.
    encoder: True if the model does not predict tokens; positions: None for rotary embeddings, else position embeddings
    are learned and a window has at most `max_position_embeddings` - positions tokens.
    mlp: names of the linears that make the hidden channels of the feed-forward part (gate and up) and of the linear that
    takes them in (down), relative to the module that holds them, see `mlps`; qkv: names of the q, k and v linears in the
    same way, () if one linear makes all three.
    own_masks: True if an exported model makes its attention masks itself, as `structure` can't tell which masks it needs.
    """

    base: str = "model"
    embedding: str = "model.embed_tokens"
    blocks: str = "model.layers"
    tail: tuple[str, ...] = ("model.norm", "lm_head")
    head: str = "lm_head"
    prefixes: tuple[str, ...] = ("model.", "")
    spellings: tuple[tuple[str, str], ...] = ()
    linears: tuple[str, ...] = (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    )  # fmt: skip
    before: tuple[str, ...] = ()
    conv1d: bool = False
    gates: tuple[str, ...] = ()
    encoder: bool = False
    positions: int | None = None
    mlp: tuple[tuple[str, ...], str] = (("gate_proj", "up_proj"), "down_proj")
    qkv: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    own_masks: bool = False

    def conv1d_tensors(self) -> tuple[str, ...]:
        """Beginnings of the names of tensors that may be the [K, N] weights of `Conv1D`, as checkpoints spell them."""
        inside = self.blocks.removeprefix(self.prefixes[0])
        return tuple(f"{prefix}{inside}." for prefix in self.prefixes) if self.conv1d else ()


class NotCoveredError(Exception):
    """A model without a row differs from the covered models. The message is a sentence that names the first difference."""

    @classmethod
    def of(cls, what: str, error: Exception) -> "NotCoveredError":
        """Returns the error of a sentence that an error of transformers explains."""
        lines = str(error).strip().splitlines() or [""]
        return cls(f"{what}: {type(error).__name__}: {lines[0][:200].rstrip('.')}.")


_LLAMA = Architecture()
_MIXTRAL = Architecture(
    spellings=(
        (r"\.mlp\.", ".block_sparse_moe."),
        (r"(\.experts\.\d+)\.gate_proj\.", r"\1.w1."),
        (r"(\.experts\.\d+)\.down_proj\.", r"\1.w2."),
        (r"(\.experts\.\d+)\.up_proj\.", r"\1.w3."),
    ),
    linears=(),
)
_GPT2 = Architecture(
    base="transformer",
    embedding="transformer.wte",
    blocks="transformer.h",
    tail=("transformer.ln_f", "lm_head"),
    prefixes=("transformer.", ""),
    linears=("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    conv1d=True,
    positions=0,
    mlp=(("c_fc",), "c_proj"),
    qkv=(),
)
_OPT = Architecture(
    base="model.decoder",
    embedding="model.decoder.embed_tokens",
    blocks="model.decoder.layers",
    tail=("model.decoder.final_layer_norm", "model.decoder.project_out", "lm_head"),
    linears=("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2"),
    before=("model.decoder.project_out", "model.decoder.project_in"),
    positions=0,
    mlp=(("fc1",), "fc2"),
)
_GPT_NEOX = Architecture(
    base="gpt_neox",
    embedding="gpt_neox.embed_in",
    blocks="gpt_neox.layers",
    tail=("gpt_neox.final_layer_norm", "lm_head"),
    prefixes=("gpt_neox.", ""),
    spellings=((r"^lm_head\.", "embed_out."),),
    linears=("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    mlp=(("dense_h_to_4h",), "dense_4h_to_h"),
    qkv=(),
)
# Text part of the multimodal model; the vision tower stays dense.
_GEMMA3 = Architecture(
    base="model.language_model",
    embedding="model.language_model.embed_tokens",
    blocks="model.language_model.layers",
    tail=("model.language_model.norm", "lm_head"),
    prefixes=("model.language_model.", "language_model.model."),
    spellings=(
        (r"^lm_head\.", "language_model.lm_head."),
        (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1."),
    ),
    linears=(),
)
_BERT = Architecture(
    base="",
    embedding="embeddings.word_embeddings",
    blocks="encoder.layer",
    tail=("pooler",),
    head="",
    prefixes=("", "bert."),
    spellings=((r"LayerNorm\.weight$", "LayerNorm.gamma"), (r"LayerNorm\.bias$", "LayerNorm.beta")),
    linears=(
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ),
    encoder=True,
    positions=0,
    mlp=(("intermediate.dense",), "output.dense"),
    qkv=("query", "key", "value"),
)
# RoBERTa numbers positions from the padding token's id + 1 on, which is 2.
_ROBERTA = replace(_BERT, prefixes=("", "roberta."), positions=2)

# Keys are `model_type` of config.json. Tests run each architecture with a tiny random model.
ARCHITECTURES: dict[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "gemma3": _GEMMA3,
    "phi3": replace(
        _LLAMA,
        linears=("self_attn.o_proj", "self_attn.qkv_proj", "mlp.gate_up_proj", "mlp.down_proj"),
        mlp=(("gate_up_proj",), "down_proj"),
        qkv=(),
    ),
    "gpt2": _GPT2,
    "opt": _OPT,
    "gpt_neox": _GPT_NEOX,
    "mixtral": _MIXTRAL,
    "qwen2_moe": replace(_LLAMA, linears=(), gates=("shared_expert_gate",)),
    "qwen3_moe": replace(_LLAMA, linears=()),
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "distilbert": replace(
        _BERT,
        blocks="transformer.layer",
        tail=(),
        prefixes=("", "distilbert."),
        spellings=(),
        linears=(
            "attention.q_lin",
            "attention.k_lin",
            "attention.v_lin",
            "attention.out_lin",
            "ffn.lin1",
            "ffn.lin2",
        ),
        mlp=(("lin1",), "lin2"),
        qkv=("q_lin", "k_lin", "v_lin"),
    ),
    "mpnet": replace(
        _ROBERTA,
        prefixes=("", "mpnet."),
        linears=(
            "attention.attn.q",
            "attention.attn.k",
            "attention.attn.v",
            "attention.attn.o",
            "intermediate.dense",
            "output.dense",
        ),
        qkv=("q", "k", "v"),
    ),
}
