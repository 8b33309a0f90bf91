//! A simulated CUDA driver, stricter than a real one, for tests.
