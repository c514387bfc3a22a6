//! Position to sample: permutation, mixture, phases
