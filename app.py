"""The page of ``rome app`` for a hosted Space (Gradio, CPU) that requires `rome-lightning[app]`."""

from rome_lightning.viewer.app import build_app, launch
from rome_lightning.viewer.studio import Limits

LIMITS = Limits(max_seconds=8, max_megabytes=32)
"""A shared CPU draws a frame or two per second."""

demo = build_app(limits=LIMITS)

if __name__ == "__main__":
    launch(demo, "0.0.0.0", 7860, LIMITS)
    demo.block_thread()
