"""`Trainer` of stage 3."""

from transformers import EvalPrediction

from ..tasks import Task
from .scoring import score
from .stage_trainer import StageTrainer


class FinetuningTrainer(StageTrainer):
    """Stage 3: labels in physical units, judged by the metric module of the problem type.

    Args:
        task: what is learnt.
    """

    def __init__(self, *args, task: Task, **kwargs):
        super().__init__(*args, compute_metrics=self._metrics, **kwargs)
        self.task = task

    def _metrics(self, evaluation: EvalPrediction) -> dict[str, float]:
        return score(self.task, evaluation.predictions, evaluation.label_ids)
