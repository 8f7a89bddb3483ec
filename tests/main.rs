//! End-to-end tests: a row goes in, a frame comes out.
