"""Video, image, audio, mesh and tensor files: reading, and writing whole or not at all."""
