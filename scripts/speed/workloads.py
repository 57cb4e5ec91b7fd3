"""What `benchmark.py` measures, as the published computation does it and as this package does.

Each workload is a model and a function that does the work on one batch; the work is the same on both sides: windows of 10 s at
125 Hz, published sizes, published dropout.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from published_model import PATCH_SIZE, PublishedEncoder, PublishedFinetuned, PublishedStage2, PublishedTokenizer
from torch import nn


NUM_PATCHES = 10
CODEBOOK_SIZE = 8192
#: Width, heads and layers of the published encoders.
SIZES = {"small": (256, 4, 12), "base": (512, 8, 12), "large": (1024, 16, 12)}


@dataclass(frozen=True)
class Side:
    """Who computes, and how: `who` is `"published"`, `"ours"`, `"ours, checkpointed"` (gradient checkpointing), `"ours, compiled"`
    (layer by layer) or `"ours, fused attention"` (that of torch, for few patches too); for the workload `"objectives"` it is one
    of them."""

    who: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.who}, {self.dtype}"

    @property
    def ours(self) -> bool:
        return self.who != "published"


@contextlib.contextmanager
def build(workload: str, side: Side, size: str, batch: int, device: str) -> Iterator[Callable[[], None]]:
    """A function that does the work of one batch, for as long as the block lasts.

    Args:
        workload: a name in `TRAINING` or `INFERENCE`.
        side: who computes.
        size: of the encoder; workloads of the tokenizer alone ignore it.
        batch: windows.
        device: `"cpu"` or `"cuda"`.
    """
    torch.manual_seed(0)
    builders = _OURS if side.ours else _PUBLISHED
    if workload == "objectives":
        model, forward = _our_objective(side.who, size, batch, device)
    else:
        model, forward = builders[workload](size, batch, device)
    if side.who == "ours, checkpointed":
        model.gradient_checkpointing_enable()
    elif side.who == "ours, compiled":
        _compile_layers(model)
    elif side.who == "ours, fused attention":
        _keep_fused_attention(model)
    with _cpu_kernels(model) if side.ours else contextlib.nullcontext():
        if workload in TRAINING:
            yield _training_step(model, forward, side, device)
        else:
            yield _inference(model, forward, side, device)


def _compile_layers(model: nn.Module) -> None:
    from cmssl_hf.models.cmssl.modeling_cmssl_layers import CMSSLLayer

    for module in model.modules():
        if isinstance(module, CMSSLLayer):
            module.compile()


def _keep_fused_attention(model: nn.Module) -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    # Under another name, in whose place nothing else is taken.
    AttentionInterface.register("fused", ALL_ATTENTION_FUNCTIONS["sdpa"])
    AttentionMaskInterface.register("fused", sdpa_mask)
    model.set_attn_implementation("fused")


def _cpu_kernels(model: nn.Module) -> contextlib.AbstractContextManager:
    from cmssl_hf.models.cpu_kernels import cpu_kernels

    return cpu_kernels(model)


def _autocast(side: Side, device: str) -> torch.autocast:
    return torch.autocast(device, getattr(torch, side.dtype), enabled=side.dtype != "float32")


def _training_step(model: nn.Module, forward: Callable, side: Side, device: str) -> Callable[[], None]:
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-5, fused=True if side.ours else None)
    scaler = torch.amp.GradScaler(device, enabled=side.dtype == "float16")

    def step():
        with _autocast(side, device):
            loss = forward()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


def _inference(model: nn.Module, forward: Callable, side: Side, device: str) -> Callable[[], None]:
    model.eval()

    @torch.inference_mode()
    def infer():
        with _autocast(side, device):
            forward()

    return infer


def _patches(batch: int, device: str) -> torch.Tensor:
    return torch.randn(batch, NUM_PATCHES, 2, PATCH_SIZE, device=device)


def _signals(batch: int, channels: int, device: str) -> torch.Tensor:
    return torch.randn(batch, channels, NUM_PATCHES * PATCH_SIZE, device=device)


# The published side: each returns a model and its forward pass.


def _published_stage1(size, batch, device):
    model, x = PublishedTokenizer().to(device), _patches(batch, device)
    return model, lambda: model(x)["loss"]


def _published_stage2(size, batch, device):
    model, x = PublishedStage2(PublishedTokenizer(), *SIZES[size]).to(device), _patches(batch, device)
    return model, lambda: model(x)


def _published_finetuning(size, batch, device):
    model, x = PublishedFinetuned(*SIZES[size]).to(device), _patches(batch, device)[:, :, 1].contiguous()
    labels = torch.randn(batch, 1, device=device)
    return model, lambda: nn.functional.mse_loss(model(x), labels)


def _published_tokenising(size, batch, device):
    model, x = PublishedTokenizer().to(device), _patches(batch, device)
    return model, lambda: model.quantized(x)[2]


def _published_embedding(size, batch, device):
    model, x = PublishedEncoder(*SIZES[size]).to(device), _patches(batch, device)[:, :, 1].contiguous()
    return model, lambda: model(x).mean(1)


# Our side. The package is imported where it is used: the memory of the published side is its own.


def _our_tokenizer(device):
    from cmssl_hf import CMSSLTokenizerConfig, CMSSLTokenizerModel

    return CMSSLTokenizerModel(CMSSLTokenizerConfig(reconstruction_objective="l1", ema_decay=0.99)).to(device)


def _our_encoder(class_name, size, device, **config):
    import cmssl_hf

    config = cmssl_hf.CMSSLEncoderConfig.from_size(
        size, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3, **config
    )
    return getattr(cmssl_hf, class_name)(config).to(device)


def _our_stage1(size, batch, device):
    model, x = _our_tokenizer(device), _signals(batch, 2, device)
    return model, lambda: model(x).loss


def _our_stage2(size, batch, device):
    model, x = _our_encoder("CMSSLEncoderForPreTraining", size, device), _signals(batch, 1, device)
    codes = torch.randint(CODEBOOK_SIZE, (batch, NUM_PATCHES), device=device)
    return model, lambda: model(x, labels=codes, return_logits=False).loss


def _our_finetuning(size, batch, device):
    model = _our_encoder(
        "CMSSLEncoderForSequenceClassification", size, device, num_labels=1, problem_type="regression"
    )
    x, labels = _signals(batch, 1, device), torch.randn(batch, 1, device=device)
    return model, lambda: model(x, labels=labels).loss


def _our_tokenising(size, batch, device):
    model, x = _our_tokenizer(device), _signals(batch, 2, device)
    return model, lambda: model.encode(x)


def _our_embedding(size, batch, device):
    model, x = _our_encoder("CMSSLEncoderModel", size, device), _signals(batch, 1, device)
    return model, lambda: model(x).pooler_output


def _our_objective(name, size, batch, device):
    from cmssl_hf import CMSSLEncoderConfig
    from cmssl_hf.training.objectives import byol, clip, masked, moco_v3, simclr, simsiam, tfc
    from cmssl_hf.training.stage import get_objective

    if name == "tokens":
        return _our_stage2(size, batch, device)
    arguments = get_objective(name).arguments[0]()
    dropout = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
    config = CMSSLEncoderConfig.from_size(size, channels=arguments.channels, **dropout)
    if name == "masked":
        model = masked.EncoderForMaskedReconstruction(config)
    else:
        model = {
            "simclr": simclr.EncoderForSimCLR,
            "byol": byol.EncoderForBYOL,
            "simsiam": simsiam.EncoderForSimSiam,
            "moco_v3": moco_v3.EncoderForMoCoV3,
            "tfc": tfc.EncoderForTFC,
            "clip": clip.EncodersForCLIP,
        }[name](config, arguments)
    inputs = {
        "input_values": _signals(batch if name in ("masked", "clip") else 2 * batch, len(config.channels), device)
    }
    if name == "masked":
        inputs["hidden"] = torch.rand(batch, NUM_PATCHES * PATCH_SIZE, device=device) < arguments.masked_share
    if name == "tfc":
        # The 626 bins of a window of 1250 samples fill six patches.
        inputs["spectra"] = torch.randn(2 * batch, 1, 6 * PATCH_SIZE, device=device)

    def forward():
        if hasattr(model, "teacher"):
            model.teacher.follow(model, model.teacher_momentum)
        return model(**inputs).loss

    return model.to(device), forward


_PUBLISHED = {
    "stage 1": _published_stage1,
    "stage 2": _published_stage2,
    "fine-tuning": _published_finetuning,
    "tokenising": _published_tokenising,
    "embedding": _published_embedding,
}
_OURS = {
    "stage 1": _our_stage1,
    "stage 2": _our_stage2,
    "fine-tuning": _our_finetuning,
    "tokenising": _our_tokenising,
    "embedding": _our_embedding,
}
#: The first one is what the others are compared with.
OBJECTIVES = ("tokens", "masked", "simclr", "simsiam", "byol", "moco_v3", "tfc", "clip")
TRAINING = ("stage 1", "stage 2", "fine-tuning", "objectives")
INFERENCE = ("tokenising", "embedding")
