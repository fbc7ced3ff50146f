//! Tables of requests and errors, made of an OpenAPI document.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// `| request | what it does | answer |`, in the order of the document.
pub(crate) fn requests(document: &Value) -> Vec<String> {
    let rows = operations(document).map(|(request, operation)| {
        let answers = operation["responses"].as_object().into_iter().flatten().filter(|(status, _)| status.starts_with('2'));
        let mut answers: Vec<String> = answers.map(|(_, answer)| shape(document, answer)).collect();
        answers.dedup();
        format!("| `{request}` | {} | {} |", operation["summary"].as_str().unwrap_or_default(), answers.join(" or "))
    });
    rows.collect()
}

/// `| status | when | of which requests |`, by status.
pub(crate) fn errors(document: &Value) -> Vec<String> {
    let mut table = BTreeMap::<(&str, &str), Vec<String>>::new();
    for (request, operation) in operations(document) {
        let request = request.split('?').next().unwrap_or_default().to_owned();
        for (status, answer) in operation["responses"].as_object().into_iter().flatten().filter(|(status, _)| !status.starts_with('2')) {
            let when = answer["description"].as_str().unwrap_or_default();
            table.entry((status, when)).or_default().push(format!("`{request}`"));
        }
    }
    table.into_iter().map(|((status, when), requests)| format!("| {status} | {when} | {} |", requests.join(", "))).collect()
}

/// Every request, with the parameters of its query, and what is said of it.
fn operations(document: &Value) -> impl Iterator<Item = (String, &Value)> {
    let paths = document["paths"].as_object().expect("the document has paths");
    paths.iter().flat_map(|(path, methods)| {
        methods.as_object().into_iter().flatten().map(move |(method, operation)| {
            let parameters = operation["parameters"].as_array().into_iter().flatten().filter(|parameter| parameter["in"] == "query");
            let query: Vec<String> = parameters.filter_map(|parameter| parameter["name"].as_str()).map(|name| format!("{name}=")).collect();
            let mark = if query.is_empty() { "" } else { "?" };
            (format!("{} {path}{mark}{}", method.to_uppercase(), query.join("&")), operation)
        })
    })
}

/// The fields of an answer: `{url, expiry}`, or what is said of one that isn't JSON.
fn shape(document: &Value, answer: &Value) -> String {
    let Some(schema) = answer["content"].as_object().and_then(|content| content.get("application/json")).map(|body| &body["schema"]) else {
        return answer["description"].as_str().unwrap_or_default().to_owned();
    };
    match fields(document, schema) {
        fields if fields.is_empty() => answer["description"].as_str().unwrap_or_default().to_owned(),
        fields => format!("`{{{}}}`", fields.join(", ")),
    }
}

fn fields<'a>(document: &'a Value, schema: &'a Value) -> Vec<&'a str> {
    let schema = match schema["$ref"].as_str().and_then(|name| name.strip_prefix('#')) {
        Some(pointer) => document.pointer(pointer).expect("a reference leads somewhere"),
        None => schema,
    };
    let own = schema["properties"].as_object().map(Map::keys).into_iter().flatten().map(String::as_str);
    let parts = schema["allOf"].as_array().into_iter().flatten().flat_map(|part| fields(document, part));
    own.chain(parts).collect()
}
