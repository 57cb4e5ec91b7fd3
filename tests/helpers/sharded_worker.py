"""Run by each process of `test_distributed.py`: trains models that `fully_shard` divides among the processes, and stores the whole
weights that this process can gather.

torchrun --nproc_per_node 2 tests/helpers/sharded_worker.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from cmssl_hf import CMSSLEncoderForPreTraining, CMSSLTokenizerModel
from cmssl_hf.models.cmssl.modeling_cmssl_layers import CMSSLLayer
from helpers.tiny import encoder_config, tokenizer_config, waves


BATCH_SIZE, NUM_STEPS = 16, 3


def shard(model, mesh):
    """Layer by layer, as `scripts/accelerate/gpu_8_fsdp.yaml` has it."""
    for module in model.modules():
        if isinstance(module, CMSSLLayer):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # gloo sums, and has no means.
            module.set_force_sum_reduction_for_comms(True)


def train(mesh=None):
    """Weights by model, buffers included, after a few steps on the part of each batch that is this process's own."""
    rank, size = (0, 1) if mesh is None else (mesh.get_local_rank(), mesh.size())
    weights = {}
    for name, kind, config in (
        ("encoder", CMSSLEncoderForPreTraining, encoder_config()),
        ("tokenizer", CMSSLTokenizerModel, tokenizer_config()),
    ):
        torch.manual_seed(0)
        model = kind(config).train()
        generator = torch.Generator().manual_seed(1)
        if mesh is not None:
            shard(model, mesh)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for step in range(NUM_STEPS):
            signals = torch.from_numpy(np.stack(waves(BATCH_SIZE, len(config.channels), seed=step)))
            codes = torch.randint(16, (BATCH_SIZE, 4), generator=generator)
            own = slice(rank * BATCH_SIZE // size, (rank + 1) * BATCH_SIZE // size)
            inputs = {"labels": codes[own]} if name == "encoder" else {}
            model(signals[own], **inputs).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        weights[name] = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    return weights


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    torch.save(train(mesh), Path(sys.argv[1], f"weights-{mesh.get_local_rank()}.pt"))
    torch.distributed.destroy_process_group()
