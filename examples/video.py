"""A video by Wan 2.1, which calls its denoiser once for each branch, with 60% of the evaluations.

    python examples/video.py

The weights of the small model are 29 GB on the hub; it runs on a card of 10 GB.
"""

import torch
from diffusers import WanPipeline
from diffusers.utils import export_to_gif

from shapefirst import guide

pipe = WanPipeline.from_pretrained("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", torch_dtype=torch.bfloat16)
pipe.enable_model_cpu_offload()

with guide(pipe, budget=0.6) as evaluations:
    video = pipe(
        "a paper boat on a pond, ripples around it",
        height=480,
        width=832,
        num_frames=33,
        num_inference_steps=30,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(0),
        output_type="pil",
    ).frames[0]
export_to_gif(video, "boat.gif", fps=15)
print(f"{evaluations.saved:.0%} of the evaluations saved")
