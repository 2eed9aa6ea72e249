"""Bidirectional mixers, for models that read whole documents: one file a kind.

Adding one: its file, its name in `EncoderMixerConfig` below, one yaml file in configs/architecture/.
"""
