//! Nothing; what is here is in `tests/`.
