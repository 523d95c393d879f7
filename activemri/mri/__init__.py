"""Physics of MRI: Fourier transforms, trajectories, coils, noise, geometries, operators."""
