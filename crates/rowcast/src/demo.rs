//! The example page: its files, its tables, and the few requests its buttons make. Never on unless
//! asked for: whoever reaches it may change the rows of the schema `demo` and act as its members.

pub mod actions;
pub mod page;
