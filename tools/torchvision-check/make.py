"""Writes torchvision's networks with random weights and statistics, an input and its logits.

    python make.py FOLDER
    cargo run --release -p oncefit-nn --example torchvision FOLDER
"""
import sys
from pathlib import Path

import torch
import torchvision
from safetensors.torch import save_file

FAMILIES = {
    "mobilenet-v2": torchvision.models.mobilenet_v2,
    "mobilenet-v3-large": torchvision.models.mobilenet_v3_large,
    "mobilenet-v3-small": torchvision.models.mobilenet_v3_small,
    "resnet50": torchvision.models.resnet50,
}

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
for family, make in FAMILIES.items():
    torch.manual_seed(0)
    model = make(weights=None)
    images = torch.randn(4, 3, 224, 224)
    # Statistics of real activations, scales and shifts that are not 1 and 0.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
            module.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(torch.randn(8, 3, 224, 224))
        model.eval()
        logits = model(images)
    state = {name: value for name, value in model.state_dict().items() if value.dtype == torch.float32}
    save_file(state, folder / f"{family}.safetensors")
    channels_last = images.permute(0, 2, 3, 1).contiguous()
    save_file({"images": channels_last, "logits": logits}, folder / f"{family}.expected.safetensors")
    print(family, sum(p.numel() for p in model.parameters()), "parameters")
