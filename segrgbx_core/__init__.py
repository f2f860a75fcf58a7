"""What is needed to use a SegRGB-X checkpoint: no ROS, no bags, no training.

The numpy ring (config, modality, samples, align, labels, images, encoders, metrics, overlay)
imports in well under a second. The torch ring (batch, model, checkpoint, inference, bench) is
imported by name when it is needed; nothing here pulls it in.
"""

__version__ = "0.1.0"
