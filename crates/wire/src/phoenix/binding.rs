//! One binding of a join to `postgres_changes`: which rows a client wants, in the words of Supabase.

use std::{fmt::Write, sync::Arc};

use rowcast_model::Operation;
use serde_json::value::RawValue;

use super::{
    Operations,
    join::{Members, members, text},
};
use crate::{
    Columns, Filter, FilterError, Limits,
    filter::{ALLOCATION, supabase},
    is_sound,
};

/// Longest name of a schema, table or column, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// Numbers of bindings are below this.
const IDS: u32 = 1 << 27;

/// A binding, in error or not: the reply to the join has to name them all.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// The JSON object as it was sent; `{}` for what is none.
    pub echo: Arc<str>,
    /// Its number: never 0, equal for equal bindings, another one for other bindings of the same join.
    pub id: u32,
    /// `[event: …, schema: …, table: …, filters: …, select: …]`, for messages.
    pub described: Arc<str>,
    /// What it asks for.
    pub asks: Result<RowBinding, BindingError>,
}

/// Which rows a binding asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct RowBinding {
    /// Which changes.
    pub operations: Operations,
    /// Only tables of this schema; `None`: of any.
    pub schema: Option<Arc<str>>,
    /// Only this table; `None`: all.
    pub table: Option<Arc<str>>,
    /// Which rows; `None`: all.
    pub filter: Option<Filter>,
    /// The text that the filter was read from.
    pub filter_text: Option<Arc<str>>,
    /// Only these columns; `None`: all.
    pub columns: Option<Columns>,
}

/// Why a binding was not understood; the sentence is for the `system` message of the channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    /// Neither a schema nor a table.
    #[error(
        "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: {0}"
    )]
    Nothing(Arc<str>),
    /// A filter that cannot be read.
    #[error("Error parsing `filter` params: {0}")]
    Filter(FilterError),
    /// Columns of more than one table.
    #[error(
        "Column selection is not supported for wildcard subscriptions. Name a `schema` and a `table` beside `select`: {0}"
    )]
    SelectAll(Arc<str>),
    /// No list of columns.
    #[error("Error parsing `select` params: {0}")]
    Select(String),
    /// A name that no table can have.
    #[error("`{0}` must be a text of 1 to 255 bytes")]
    Name(&'static str),
}

impl Binding {
    /// Bytes that it takes in memory, roughly.
    pub fn cost(&self) -> usize {
        const ENTRY: usize = 512;
        let asks = match &self.asks {
            Ok(asks) => asks.cost(),
            Err(error) => size_of_val(error),
        };
        ENTRY + self.echo.len() + self.described.len() + asks
    }
}

impl RowBinding {
    fn cost(&self) -> usize {
        let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        let columns = self.columns.iter().flat_map(|columns| columns.iter());
        text(&self.schema)
            + text(&self.table)
            + text(&self.filter_text)
            + self.filter.as_ref().map_or(0, Filter::cost)
            + columns
                .map(|column| column.len() + ALLOCATION)
                .sum::<usize>()
    }
}

/// Reads the bindings of a join. What is null is none.
pub(super) fn read(list: &[&RawValue], limits: &Limits) -> Vec<Binding> {
    let mut bindings: Vec<(String, Binding)> = Vec::new();
    for raw in list.iter().filter(|raw| raw.get() != "null") {
        let (canonical, mut binding) = one(raw, limits);
        // Two that are not equal must not have one number: clients find their callback by it.
        let taken = |id: u32| {
            bindings
                .iter()
                .any(|(text, other)| other.id == id && *text != canonical)
        };
        while taken(binding.id) {
            binding.id = binding.id % (IDS - 1) + 1;
        }
        bindings.push((canonical, binding));
    }
    bindings.into_iter().map(|(_, binding)| binding).collect()
}

fn one(raw: &RawValue, limits: &Limits) -> (String, Binding) {
    let object = raw.get().starts_with('{') && is_sound(raw.get());
    let fields = members(Some(raw));
    let of = |name: &str| fields.get(name).copied().filter(|raw| raw.get() != "null");
    let operations = of("event").and_then(text).map_or(Operations::ALL, |event| {
        match event.to_ascii_uppercase().as_str() {
            "INSERT" => Operations::only(Operation::Insert),
            "UPDATE" => Operations::only(Operation::Update),
            "DELETE" => Operations::only(Operation::Delete),
            _ => Operations::ALL,
        }
    });
    let filter = of("filter");
    let select = of("select");
    let words = [of("schema"), of("table"), filter, select];
    let mut canonical = operations.as_str().to_owned();
    let mut described = format!("[event: {}", operations.as_str());
    for (name, word) in ["schema", "table", "filters", "select"].iter().zip(words) {
        let word = word.map_or("", RawValue::get);
        let shown: String = word.chars().take(100).collect();
        // Writing into a text does not fail.
        let _ = write!(canonical, "\0{word}");
        let _ = write!(described, ", {name}: {}", shown.trim_matches('"'));
    }
    described.push(']');
    let described: Arc<str> = described.into();
    let asks = rows(&fields, operations, &described, limits);
    let binding = Binding {
        echo: if object { raw.get() } else { "{}" }.into(),
        id: number(&canonical),
        described,
        asks,
    };
    (canonical, binding)
}

fn rows(
    fields: &Members<'_>,
    operations: Operations,
    described: &Arc<str>,
    limits: &Limits,
) -> Result<RowBinding, BindingError> {
    let of = |name: &str| fields.get(name).copied().filter(|raw| raw.get() != "null");
    let name = |what: &'static str| match of(what).map(text) {
        None => Ok(None),
        Some(Some(name)) if (1..=MAX_NAME_BYTES).contains(&name.len()) => Ok(Some(name)),
        Some(_) => Err(BindingError::Name(what)),
    };
    let (schema, table) = match (name("schema")?, name("table")?) {
        (None, None) => return Err(BindingError::Nothing(described.clone())),
        (None, Some(table)) => ("public".to_owned(), Some(table)),
        (Some(schema), table) => (schema, table),
    };
    let named = |name: String| (name != "*").then(|| Arc::<str>::from(name));
    let (schema, table) = (named(schema), table.and_then(named));
    let columns = match of("select") {
        None => None,
        Some(raw) => select(raw, limits)?,
    };
    if columns.is_some() && (schema.is_none() || table.is_none()) {
        return Err(BindingError::SelectAll(described.clone()));
    }
    let (mut filter, mut filter_text) = (None, None);
    if let Some(raw) = of("filter") {
        let source = text(raw).ok_or(BindingError::Filter(FilterError::NoText))?;
        if !source.trim().is_empty() {
            let read = supabase::parse(&source, &limits.filter).map_err(BindingError::Filter)?;
            filter = Some(read);
            filter_text = Some(source.into());
        }
    }
    Ok(RowBinding {
        operations,
        schema,
        table,
        filter,
        filter_text,
        columns,
    })
}

fn select(raw: &RawValue, limits: &Limits) -> Result<Option<Columns>, BindingError> {
    let refuse = |what: &str| Err(BindingError::Select(what.to_owned()));
    let Ok(names) = serde_json::from_str::<Vec<String>>(raw.get()) else {
        return refuse("it must be a list of names of columns");
    };
    if names.len() > limits.columns {
        return refuse(&format!("it may name {} columns", limits.columns));
    }
    if names
        .iter()
        .any(|name| !(1..=MAX_NAME_BYTES).contains(&name.len()))
    {
        return refuse("names of columns have 1 to 255 bytes");
    }
    let columns: Columns = names.into_iter().map(Arc::from).collect();
    Ok((!columns.is_empty()).then_some(columns))
}

/// A number from 1 to 2^27 - 1, the same for the same text everywhere and always (FNV-1a).
fn number(canonical: &str) -> u32 {
    let hash = canonical
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
    let folded = (hash ^ (hash >> 32)) % u64::from(IDS - 1);
    u32::try_from(folded).unwrap_or(0) + 1
}
