//! The filter language of subscriptions. Owns its syntax and its limits; evaluation is next door.
//!
//! `{"and":[…]}`, `{"or":[…]}`, `{"not":…}`, `{"column":"status","op":"eq","value":"open"}` with the
//! operators eq, neq, lt, lte, gt, gte, in, like and is. The same filters can be written as Supabase does
//! ([`Filter::parse_supabase`]), which has some operators more.

mod decimal;
mod eval;
mod like;
mod parse;
mod regex;
pub(crate) mod supabase;
mod time;
mod value;

use std::sync::Arc;

pub use eval::{Operand, Truth, should_deliver};
pub use parse::FilterError;
pub use regex::Pattern;
pub use value::{eq_key_of_literal, eq_key_of_value};

/// How large a filter may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterLimits {
    /// Nesting of and, or and not.
    pub depth: usize,
    /// Conditions and groups, and values of `in` lists, all together.
    pub nodes: usize,
    /// Bytes of one value.
    pub value_bytes: usize,
}

impl Default for FilterLimits {
    fn default() -> Self {
        FilterLimits {
            depth: 8,
            nodes: 256,
            value_bytes: 1024,
        }
    }
}

/// Which rows a subscriber wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// All of them hold; true when empty.
    And(Vec<Filter>),
    /// One of them holds; false when empty.
    Or(Vec<Filter>),
    /// It does not hold.
    Not(Box<Filter>),
    /// A condition on one column.
    Column {
        /// The column's name.
        column: Arc<str>,
        /// The condition.
        test: Test,
    },
}

/// A condition on the value of one column.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// `eq`, `neq`, `lt`, `lte`, `gt`, `gte`.
    Compare(CompareOp, Literal),
    /// `in`: equal to one of them.
    In(Vec<Literal>),
    /// `like`: `%` stands for any text, `_` for one character, `\` takes the next one literally.
    Like(Box<str>),
    /// `is`: `None` for null. Never unknown, except for a value that is not there.
    Is(Option<bool>),
    /// `ilike`: like `like`, but upper and lower case are the same. The pattern is in lower case.
    LikeAnyCase(Box<str>),
    /// `match` and `imatch`: a regular expression is found in it.
    Matches(Pattern),
    /// `isdistinct`: another value than this, or null.
    Distinct(Literal),
}

/// An operator that compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    /// Equal.
    Eq,
    /// Not equal.
    Neq,
    /// Less.
    Lt,
    /// Less or equal.
    Lte,
    /// Greater.
    Gt,
    /// Greater or equal.
    Gte,
}

/// A value that a column is compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// Its digits as they were sent.
    Number(Box<str>),
    /// Text; compared with a number column as a number.
    Text(Box<str>),
    /// A boolean.
    Bool(bool),
    /// Text that is read as whatever the column is: a number, a boolean, a time or text.
    Untyped(Box<str>),
    /// Null: nothing equals it.
    Null,
}

/// What an allocation costs beside its bytes, roughly.
pub(crate) const ALLOCATION: usize = 32;

impl Literal {
    /// Whether all values that are equal to it can be looked up: a time has many texts.
    fn has_one_text(&self) -> bool {
        !matches!(self, Literal::Untyped(text) if time::read(text).is_some())
    }

    fn cost(&self) -> usize {
        match self {
            Literal::Number(text) | Literal::Text(text) | Literal::Untyped(text) => {
                text.len() + ALLOCATION
            }
            Literal::Bool(_) | Literal::Null => 0,
        }
    }
}

impl Filter {
    /// Reads a filter from its JSON text.
    ///
    /// # Errors
    /// [`FilterError`] says what is not understood.
    pub fn parse(json: &str, limits: &FilterLimits) -> Result<Filter, FilterError> {
        parse::parse(json, limits)
    }

    /// Reads a filter in the grammar of Supabase: conditions `column=operator.value`, parted by commas, of which
    /// all have to hold.
    ///
    /// # Errors
    /// [`FilterError`] says what is not understood.
    pub fn parse_supabase(text: &str, limits: &FilterLimits) -> Result<Filter, FilterError> {
        supabase::parse(text, limits)
    }

    /// Calls `visit` with every column that the filter names.
    pub fn each_column<'a>(&'a self, visit: &mut impl FnMut(&'a str)) {
        match self {
            Filter::And(parts) | Filter::Or(parts) => {
                parts.iter().for_each(|part| part.each_column(visit));
            }
            Filter::Not(inner) => inner.each_column(visit),
            Filter::Column { column, .. } => visit(column),
        }
    }

    /// Bytes that the filter takes in memory, roughly.
    pub fn cost(&self) -> usize {
        let within = match self {
            Filter::And(parts) | Filter::Or(parts) => parts.iter().map(Filter::cost).sum(),
            Filter::Not(inner) => inner.cost(),
            Filter::Column { column, test } => {
                let values = match test {
                    Test::Compare(_, literal) | Test::Distinct(literal) => literal.cost(),
                    Test::In(literals) => literals
                        .iter()
                        .map(|literal| size_of::<Literal>() + literal.cost())
                        .sum(),
                    Test::Like(pattern) | Test::LikeAnyCase(pattern) => pattern.len() + ALLOCATION,
                    Test::Matches(pattern) => pattern.cost(),
                    Test::Is(_) => 0,
                };
                column.len() + ALLOCATION + values
            }
        };
        size_of::<Filter>() + within
    }

    /// What of [`Filter::cost`] its copies share.
    pub fn shared_cost(&self) -> usize {
        match self {
            Filter::And(parts) | Filter::Or(parts) => parts.iter().map(Filter::shared_cost).sum(),
            Filter::Not(inner) => inner.shared_cost(),
            Filter::Column { test, .. } => match test {
                Test::Matches(pattern) => pattern.cost(),
                _ => 0,
            },
        }
    }

    /// A condition `column = value` without which the filter cannot hold, if there is one: what a
    /// subscription can be found by instead of being asked.
    pub fn needed_equality(&self) -> Option<(&Arc<str>, &Literal)> {
        match self {
            Filter::Column {
                column,
                test: Test::Compare(CompareOp::Eq, literal),
            } => literal.has_one_text().then_some((column, literal)),
            Filter::And(parts) => parts.iter().find_map(Filter::needed_equality),
            _ => None,
        }
    }
}
