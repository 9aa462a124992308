//! The text of one file -> objects, and what is wrong with the rest: each problem with line, column and field.

use super::documents::{Document, documents};
use super::locate::{Place, locate};
use super::typed;
use crate::object::{KINDS, Kind, Object};
use serde_json::Value;

/// Something wrong in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextProblem {
    /// Counted from 1, where known.
    pub line: Option<u64>,
    pub column: Option<u64>,
    pub message: String,
}

#[derive(Debug, Default)]
pub struct Parsed {
    pub objects: Vec<Object>,
    pub problems: Vec<TextProblem>,
    /// Some object could not be read: which ones the text means to hold is not known.
    pub is_partial: bool,
}

/// The syntax of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    Yaml,
    Json,
}

pub fn parse(text: &str, syntax: Syntax) -> Parsed {
    let mut parsed = Parsed::default();
    let all = match syntax {
        Syntax::Json => vec![Document { text, lines_before: 0 }],
        Syntax::Yaml => documents(text),
    };
    for document in all {
        let mut reading = Reading { document, parsed: &mut parsed };
        match read(document.text, syntax) {
            Ok(value) => reading.document(&value),
            Err((place, message)) => reading.refuse(place, message),
        }
    }
    parsed
}

fn read(text: &str, syntax: Syntax) -> Result<Value, (Option<Place>, String)> {
    match syntax {
        Syntax::Yaml => serde_saphyr::from_str(text).map_err(|error| {
            let place = error.location().map(|location| (location.line(), location.column()));
            (place, without_place(&error.without_snippet().to_string()))
        }),
        Syntax::Json => serde_json::from_str(text)
            .map_err(|error| (Some((error.line() as u64, error.column() as u64)), without_place(&error.to_string()))),
    }
}

/// The parsers' messages repeat the place, which is told apart, and advise programmers.
fn without_place(message: &str) -> String {
    let message = message.split(" at line ").next().unwrap_or(message);
    let message = message.split(", set DuplicateKeyPolicy").next().unwrap_or(message);
    message.trim_start_matches("error: ").trim().to_owned()
}

/// The kind of a value; else why it is not read.
fn kind_of(value: &Value) -> Result<Kind, String> {
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        return Err("apiVersion or kind is missing: every object names both".to_owned());
    };
    KINDS.into_iter().find(|k| k.name() == kind && k.api_version() == version).ok_or_else(|| {
        let all: Vec<_> = KINDS.iter().map(|k| format!("{} {}", k.api_version(), k.name())).collect();
        format!("{version} {kind} is ignored: Fairway follows {}", all.join(", "))
    })
}

/// The items of a list, and the kind that those have which do not say (as in a PodList).
fn items(value: &Value) -> Option<(&[Value], Option<Kind>)> {
    let kind = value.get("kind")?.as_str()?.strip_suffix("List")?;
    Some((value.get("items")?.as_array()?, Kind::from_name(kind)))
}

/// One document on its way into `parsed`.
struct Reading<'a> {
    document: Document<'a>,
    parsed: &'a mut Parsed,
}

impl Reading<'_> {
    fn document(&mut self, value: &Value) {
        let Some((items, implied)) = items(value) else { return self.object(value, kind_of(value), "") };
        for (i, item) in items.iter().enumerate() {
            let kind = implied.filter(|_| item.get("kind").is_none()).map_or_else(|| kind_of(item), Ok);
            self.object(item, kind, &format!("items[{i}]"));
        }
    }

    /// `at` is the path of the object within the document.
    fn object(&mut self, value: &Value, kind: Result<Kind, String>, at: &str) {
        let kind = match kind {
            Ok(kind) => kind,
            Err(message) => {
                // Without both names nobody knows what it was meant to be.
                self.parsed.is_partial |= value.get("kind").is_none() || value.get("apiVersion").is_none();
                return self.report(locate(self.document.text, at), message);
            }
        };
        let typed::Outcome { object, unknown, closed } = typed::object(kind, value);
        let path = |field: &str| if at.is_empty() { field.to_owned() } else { format!("{at}.{field}") };
        for field in unknown.iter().map(|field| path(field)) {
            let message = format!("{field}: is no field that the API has; it has no effect");
            self.report(locate(self.document.text, &field), message);
        }
        match object {
            Ok(object) => {
                for wrong in closed {
                    let field = path(&wrong.field);
                    let message = format!("{field}: {}; {} is closed where this counts", wrong.message, object.key());
                    self.report(locate(self.document.text, &field), message);
                }
                self.parsed.objects.push(object);
            }
            Err(wrong) => {
                let field = path(&wrong.field);
                self.refuse(locate(self.document.text, &field), format!("{field}: {}", wrong.message));
            }
        }
    }

    fn refuse(&mut self, place: Option<Place>, message: String) {
        self.parsed.is_partial = true;
        self.report(place, message);
    }

    fn report(&mut self, place: Option<Place>, message: String) {
        let line = place.map(|(line, _)| line + self.document.lines_before);
        self.parsed.problems.push(TextProblem { line, column: place.map(|(_, column)| column), message });
    }
}
