"""The ResNet-1D that much published work on ECG and PPG encodes signals with."""
