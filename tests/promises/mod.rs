//! The promises of SPEC section 2, one file each; every test fails when its promise is broken.

mod promise_01_order;
mod promise_02_transactions;
mod promise_03_farther_back;
mod promise_03_resume;
mod promise_04_subscribed;
mod promise_05_never_silent;
mod promise_06_isolation;
mod promise_07_revocation;
mod promise_08_visible;
mod promise_09_writes;
mod promise_11_bounded;
mod promise_11_ceiling;
