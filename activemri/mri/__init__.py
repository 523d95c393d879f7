"""Physics of Cartesian MRI: Fourier transforms, coils, noise, sampling geometries, operators."""
