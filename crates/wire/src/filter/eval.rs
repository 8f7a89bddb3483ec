//! What a filter says of a row: three-valued, as SQL is, and that for every value the log leaves out.
//!
//! Pure. An answer is the set of what it may be, so that a value that is not in the log is not taken
//! for a null: a row that may match has to be told to a subscriber, and a null matches nothing.

use std::cmp::Ordering;

use rowcast_model::{Body, JsonRow, Kind, Operation};

use super::{
    CompareOp, Filter, Literal, Test,
    like::{folded, like},
    value::Scalar,
};

/// The answers that a condition may have, given what is known of the row. One of them: it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truth {
    can_hold: bool,
    can_fail: bool,
    can_be_null: bool,
}

impl Truth {
    /// It holds.
    pub const TRUE: Truth = Truth::new(true, false, false);
    /// It does not hold.
    pub const FALSE: Truth = Truth::new(false, true, false);
    /// SQL's unknown: a null, a hidden column, or two things that cannot be compared.
    pub const NULL: Truth = Truth::new(false, false, true);
    /// The log does not hold the value that decides it.
    pub const MISSING: Truth = Truth::new(true, true, true);

    const fn new(can_hold: bool, can_fail: bool, can_be_null: bool) -> Truth {
        Truth {
            can_hold,
            can_fail,
            can_be_null,
        }
    }

    /// It holds for certain.
    pub fn holds(self) -> bool {
        self == Truth::TRUE
    }

    /// It holds, or may do so.
    pub fn may_hold(self) -> bool {
        self.can_hold
    }

    /// Whether this is one of the possible answers; `None` is SQL's unknown.
    pub fn may_be(self, answer: Option<bool>) -> bool {
        match answer {
            Some(true) => self.can_hold,
            Some(false) => self.can_fail,
            None => self.can_be_null,
        }
    }

    fn and(self, other: Truth) -> Truth {
        let null_and_not_false =
            |a: Truth, b: Truth| a.can_be_null && (b.can_be_null || b.can_hold);
        Truth {
            can_hold: self.can_hold && other.can_hold,
            can_fail: self.can_fail || other.can_fail,
            can_be_null: null_and_not_false(self, other) || null_and_not_false(other, self),
        }
    }

    fn or(self, other: Truth) -> Truth {
        self.not().and(other.not()).not()
    }

    fn not(self) -> Truth {
        Truth {
            can_hold: self.can_fail,
            can_fail: self.can_hold,
            ..self
        }
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Truth {
        if holds { Truth::TRUE } else { Truth::FALSE }
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
            Filter::And(parts) => parts
                .iter()
                .map(|part| part.evaluate(column))
                .fold(Truth::TRUE, Truth::and),
            Filter::Or(parts) => parts
                .iter()
                .map(|part| part.evaluate(column))
                .fold(Truth::FALSE, Truth::or),
            Filter::Not(inner) => inner.evaluate(column).not(),
            Filter::Column { column: name, test } => match column(name) {
                Operand::Value(kind, json) => test.holds(kind, json),
                Operand::Missing => Truth::MISSING,
                Operand::Hidden => Truth::NULL,
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
                Scalar::Null => Truth::FALSE,
                _ => Truth::NULL,
            },
            Test::Compare(op, literal) => compare(&scalar, *op, literal),
            Test::In(literals) => literals
                .iter()
                .map(|literal| compare(&scalar, CompareOp::Eq, literal))
                .fold(Truth::FALSE, Truth::or),
            Test::Like(pattern) => match scalar.text() {
                Some(text) => like(text, pattern).into(),
                None => Truth::NULL,
            },
            Test::LikeAnyCase(pattern) => match scalar.text() {
                Some(text) => like(&folded(text), pattern).into(),
                None => Truth::NULL,
            },
            Test::Matches(pattern) => match scalar.text().map(|text| pattern.found_in(text)) {
                Some(Some(found)) => found.into(),
                _ => Truth::NULL,
            },
            Test::Distinct(literal) => match (&scalar, literal) {
                (Scalar::Null, literal) => (*literal != Literal::Null).into(),
                (_, Literal::Null) => Truth::TRUE,
                _ => compare(&scalar, CompareOp::Neq, literal),
            },
        }
    }
}

fn compare(scalar: &Scalar<'_>, op: CompareOp, literal: &Literal) -> Truth {
    let Some(order) = scalar.compare(literal) else {
        return Truth::NULL;
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
            .is_none_or(|new| filter.evaluate(&|name: &str| in_row(new, name)).holds()),
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
                filter.evaluate(&look).may_hold()
            });
            now || old
                .as_ref()
                .is_some_and(|old| filter.evaluate(&|name: &str| in_row(old, name)).holds())
        }
        Operation::Delete => old.as_ref().is_none_or(|old| {
            let look = |name: &str| match in_row(old, name) {
                Operand::Hidden => Operand::Missing,
                known => known,
            };
            filter.evaluate(&look).may_hold()
        }),
        Operation::Truncate => true,
    }
}
