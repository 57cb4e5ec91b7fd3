"""PaPaGei in plain torch with the names of its published files, written from its description and not from the package's code."""

import torch
from torch import nn
from torch.nn import functional


class SameConv(nn.Module):
    """`conv` behind zeros that make `ceil(length / stride)` outputs, one more of them on the right where their number is odd."""

    def __init__(self, before, after, stride=1):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv1d(before, after, 3, stride)

    def forward(self, x):
        length = x.shape[-1]
        outputs = (length + self.stride - 1) // self.stride
        total = max(0, (outputs - 1) * self.stride + 3 - length)
        left = torch.zeros(*x.shape[:2], total // 2)
        right = torch.zeros(*x.shape[:2], total - total // 2)
        return self.conv(torch.cat((left, x, right), -1))


class Block(nn.Module):
    def __init__(self, index, base):
        super().__init__()
        self.index = index
        before = base * 2 ** ((index - 1) // 4) if index else base
        self.after = base * 2 ** (index // 4)
        self.bn1 = nn.BatchNorm1d(before)
        self.conv1 = SameConv(before, self.after, 1 + index % 2)
        self.bn2 = nn.BatchNorm1d(self.after)
        self.conv2 = SameConv(self.after, self.after)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        out = x
        if self.index:
            out = self.dropout(torch.relu(self.bn1(out)))
        out = self.conv1(out)
        out = self.conv2(self.dropout(torch.relu(self.bn2(out))))
        if self.index % 2:
            # One zero on the right, whose pair the pooling drops where the length is even.
            x = torch.cat((x, torch.zeros(*x.shape[:2], 1)), -1).unfold(-1, 2, 2).amax(-1)
        missing = self.after - x.shape[1]
        if missing:
            zeros = torch.zeros(len(x), missing // 2, x.shape[-1])
            x = torch.cat((zeros, x, zeros), 1)
        return out + x


class PublishedPaPaGei(nn.Module):
    """`forward` gives the embedding and what `dense` made it of."""

    def __init__(self, experts: bool, base: int = 32, num_blocks: int = 18, embedding_size: int = 512):
        super().__init__()
        self.first_block_conv = SameConv(1, base)
        self.first_block_bn = nn.BatchNorm1d(base)
        self.basicblock_list = nn.ModuleList(Block(index, base) for index in range(num_blocks))
        width = base * 2 ** ((num_blocks - 1) // 4)
        self.final_bn = nn.BatchNorm1d(width)
        self.dense = nn.Linear(width, embedding_size)
        if experts:
            half = width // 2
            self.expert_layers_1 = nn.ModuleList(
                nn.Sequential(nn.Linear(width, half), nn.ReLU(), nn.Linear(half, 1)) for _ in range(3)
            )
            self.gating_network_1 = nn.Sequential(nn.Linear(width, 3), nn.Softmax(-1))
            self.expert_layers_2 = nn.ModuleList(
                nn.Sequential(nn.Linear(width, half), nn.ReLU(), nn.Dropout(), nn.Linear(half, 1)) for _ in range(3)
            )
            self.gating_network_2 = nn.Sequential(nn.Linear(width, 3), nn.Softmax(-1))

    def forward(self, x):
        out = torch.relu(self.first_block_bn(self.first_block_conv(x)))
        for block in self.basicblock_list:
            out = block(out)
        pooled = functional.relu(self.final_bn(out)).mean(-1)
        return self.dense(pooled), pooled


def published_papagei(experts: bool, **sizes) -> PublishedPaPaGei:
    """One with random weights and running statistics, as if it had been trained."""
    torch.manual_seed(0)
    model = PublishedPaPaGei(experts, **sizes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def published_file(model: nn.Module) -> dict[str, torch.Tensor]:
    """Its state dictionary as the published files name it."""
    return {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
