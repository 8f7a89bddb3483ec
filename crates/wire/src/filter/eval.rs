//! What a filter says of a row. Three-valued, as SQL is, and a fourth: the value is not in the log.
//!
//! Pure. The fourth value is kept apart from null, because a row that might match has to be told to a
//! subscriber, and a null matches nothing.

use std::cmp::Ordering;

use rowcast_model::{Body, JsonRow, Kind, Operation};

use super::{CompareOp, Filter, Literal, Test, like::like, value::Scalar};

/// The answer of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Truth {
    /// It does not hold.
    False,
    /// SQL's unknown: a null, a hidden column, or two things that cannot be compared.
    Null,
    /// The log does not hold a value that decides it.
    Missing,
    /// It holds.
    True,
}

impl Truth {
    fn not(self) -> Truth {
        match self {
            Truth::True => Truth::False,
            Truth::False => Truth::True,
            other => other,
        }
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Truth {
        if holds { Truth::True } else { Truth::False }
    }
}

/// What is known of one column of a row.
#[derive(Clone, Copy, Debug)]
pub enum Operand<'a> {
    /// Its JSON value and kind.
    Value(&'a Kind, &'a [u8]),
    /// It is there, but the log does not hold it.
    Missing,
    /// There is no such column for this audience.
    Hidden,
}

impl Filter {
    /// Evaluates against whatever `column` says of each column.
    pub fn evaluate<'a>(&self, column: &impl Fn(&str) -> Operand<'a>) -> Truth {
        match self {
            // The order of `Truth` is that of the connectives: and takes the least, or the greatest.
            Filter::And(parts) => parts
                .iter()
                .map(|part| part.evaluate(column))
                .min()
                .unwrap_or(Truth::True),
            Filter::Or(parts) => parts
                .iter()
                .map(|part| part.evaluate(column))
                .max()
                .unwrap_or(Truth::False),
            Filter::Not(inner) => inner.evaluate(column).not(),
            Filter::Column { column: name, test } => match column(name) {
                Operand::Value(kind, json) => test.holds(kind, json),
                Operand::Missing => Truth::Missing,
                Operand::Hidden => Truth::Null,
            },
        }
    }
}

impl Test {
    fn holds(&self, kind: &Kind, json: &[u8]) -> Truth {
        let scalar = Scalar::read(kind, json);
        match self {
            Test::Is(None) => matches!(scalar, Scalar::Null).into(),
            Test::Is(Some(wanted)) => match scalar {
                Scalar::Bool(value) => (value == *wanted).into(),
                Scalar::Null => Truth::False,
                _ => Truth::Null,
            },
            Test::Compare(op, literal) => compare(&scalar, *op, literal),
            Test::In(literals) => literals
                .iter()
                .map(|literal| compare(&scalar, CompareOp::Eq, literal))
                .max()
                .unwrap_or(Truth::False),
            Test::Like(pattern) => match scalar {
                Scalar::Text(text) => like(&text, pattern).into(),
                _ => Truth::Null,
            },
        }
    }
}

fn compare(scalar: &Scalar<'_>, op: CompareOp, literal: &Literal) -> Truth {
    let Some(order) = scalar.compare(literal) else {
        return Truth::Null;
    };
    let holds = match op {
        CompareOp::Eq => order == Ordering::Equal,
        CompareOp::Neq => order != Ordering::Equal,
        CompareOp::Lt => order == Ordering::Less,
        CompareOp::Lte => order != Ordering::Greater,
        CompareOp::Gt => order == Ordering::Greater,
        CompareOp::Gte => order != Ordering::Less,
    };
    holds.into()
}

fn in_row<'a>(row: &'a JsonRow, name: &str) -> Operand<'a> {
    let columns = row.columns();
    match columns.iter().position(|column| &*column.name == name) {
        None => Operand::Hidden,
        Some(i) => match (columns.get(i), row.value(i)) {
            (Some(column), Some(json)) => Operand::Value(&column.kind, json),
            _ => Operand::Missing,
        },
    }
}

/// Whether an event goes to a subscriber with this filter.
///
/// INSERT: the new row matches. UPDATE: the new row matches, or the old one is known and matched (the
/// row leaves the filter). DELETE: the old row matched or may have matched. What carries no row
/// (invalidations, TRUNCATE) always goes out.
pub fn should_deliver(filter: &Filter, op: Operation, body: &Body) -> bool {
    let Body::Change { new, old, .. } = body else {
        return true;
    };
    match op {
        Operation::Insert => new
            .as_ref()
            .is_none_or(|new| filter.evaluate(&|name: &str| in_row(new, name)) == Truth::True),
        Operation::Update => {
            let now = new.as_ref().is_none_or(|new| {
                // A large value that the UPDATE left alone stands in the old row, if that is whole.
                let look = |name: &str| match (in_row(new, name), old) {
                    (Operand::Missing, Some(old)) => match in_row(old, name) {
                        Operand::Hidden => Operand::Missing,
                        known => known,
                    },
                    (known, _) => known,
                };
                matches!(filter.evaluate(&look), Truth::True | Truth::Missing)
            });
            now || old
                .as_ref()
                .is_some_and(|old| filter.evaluate(&|name: &str| in_row(old, name)) == Truth::True)
        }
        Operation::Delete => old.as_ref().is_none_or(|old| {
            let look = |name: &str| match in_row(old, name) {
                Operand::Hidden => Operand::Missing,
                known => known,
            };
            matches!(filter.evaluate(&look), Truth::True | Truth::Missing)
        }),
        Operation::Truncate => true,
    }
}
