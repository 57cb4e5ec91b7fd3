"""LoRA (Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685) by peft: a pre-trained model stays as
it is, and narrow products beside its linear layers are trained, together with the whole head."""

from pathlib import Path

from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import PreTrainedModel


#: Where it is in the folder of a run.
ADAPTER_FOLDER = "adapter"

#: The linear layers of attention and feed-forward blocks.
_ADAPTED = ("qkv_proj", "o_proj", "fc1", "fc2")
#: Of the model, what is new with each task.
_TRAINED_WHOLE = ("classifier", "interval_head", "missing_channels")
#: Divided by the rank it scales the products: constant, as in the paper, so that another rank needs no other learning rate.
_ALPHA = 16


class Adapter:
    """Products of rank `rank` beside the linear layers of a model, in place.

    Until [`Adapter.merge`] the weights of the model have other names; its inputs, outputs and class stay the same.

    Args:
        model: with a `classifier`.
        rank: of the products.

    Raises:
        ValueError: if the model has no such layers.
    """

    def __init__(self, model: PreTrainedModel, rank: int):
        if not any(name.endswith(_ADAPTED) for name, _ in model.named_modules()):
            raise ValueError(
                f"`lora_rank` adapts the linear layers of transformers, but this {model.config.model_type} has none: leave it out, or give"
                " `freeze_encoder` to train little."
            )
        norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm1d)]
        if any(name.startswith("encoder.") for name in norms):
            raise ValueError(
                "`lora_rank` leaves the encoder as it is, but batch norms, as those of `patch_embedding=residual`, move with every batch:"
                " leave it out, or give `freeze_encoder` to train little."
            )
        whole = [name for name, _ in model.named_children() if name in _TRAINED_WHOLE]
        config = LoraConfig(r=rank, lora_alpha=_ALPHA, target_modules=list(_ADAPTED), modules_to_save=whole)
        self._adapted = get_peft_model(model, config)

    def save(self, run_folder: Path) -> None:
        """Writes it to `ADAPTER_FOLDER`, as peft and transformers load it."""
        self._adapted.save_pretrained(str(run_folder / ADAPTER_FOLDER))

    def merge(self) -> None:
        """Adds the products to the weights of the model, which is one like any other again."""
        self._adapted.merge_and_unload()
