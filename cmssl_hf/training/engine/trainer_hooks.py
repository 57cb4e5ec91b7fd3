"""What this package must reach in `Trainer` and can by no public name: each method with the reason, and watched by a test."""

from typing import Any

from torch import nn
from torch.utils.data import Dataset, Sampler
from transformers import Trainer


class HookedTrainer(Trainer):
    """A `Trainer` whose private methods have public names here; subclasses override and call those."""

    # Its type is `None` in `Trainer`, which finds the Hub id only with `push_to_hub`.
    hub_model_id: Any

    # Callbacks come before or after a checkpoint is written, never around it, and it must appear as a whole.
    def store_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes a checkpoint of the present step."""
        super()._save_checkpoint(model, trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.store_checkpoint(model, trial)

    # `output_dir` is read wherever a checkpoint is written, so that nothing else moves them.
    def folder_of_checkpoints(self, trial: Any) -> str:
        """Where checkpoints are written."""
        return super()._get_output_dir(trial)

    def _get_output_dir(self, trial: Any) -> str:
        return self.folder_of_checkpoints(trial)

    # The default uploads all training arguments in a pickle, `hub_token` among them.
    def push_checkpoint(self, folder: str) -> None:
        """Uploads a checkpoint."""
        super()._push_from_checkpoint(folder)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        self.push_checkpoint(checkpoint_folder)

    # There is no event between the end of the training and the loading, before which damage must be found.
    def load_best(self) -> None:
        """Takes the weights of the best checkpoint."""
        super()._load_best_model()

    def _load_best_model(self) -> None:
        self.load_best()

    # `get_train_dataloader` would have to be written anew for another order of the windows.
    def train_sampler(self, dataset: Dataset | None = None) -> Sampler[int] | None:
        """The order in which training windows are read."""
        return super()._get_train_sampler(dataset)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int] | None:
        return self.train_sampler(train_dataset)

    # Early checkpoints may have to lose although their metric is better.
    def is_best(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether metrics are better than all before, which are then remembered."""
        return super()._determine_best_metric(metrics, trial)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        return self.is_best(metrics, trial)

    # A `prediction_step` of one's own needs what that of `Trainer` does first.
    def on_device(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A batch where the model is."""
        return self._prepare_inputs(inputs)

    # `from_pretrained` would make another model than the one that is wrapped.
    def load_weights(self, folder: str) -> None:
        """Takes the weights in a folder."""
        self._load_from_checkpoint(folder)

    # Without it, saving pushes, before there are results for the model card.
    def store_model(self) -> None:
        """Saves the model to `output_dir` without pushing it."""
        self.save_model(_internal_call=True)

    # A run that continues in another precision may have no scaler to take the state that was saved.
    def load_scaler(self, checkpoint: str | None) -> None:
        """Takes the state of the gradient scaler."""
        super()._load_scaler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        self.load_scaler(checkpoint)
