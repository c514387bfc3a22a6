//! Findings for code scanners: SARIF 2.1.0.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::report::{Finding, Report};
use super::rule::{Rule, Severity, link};

pub(super) fn document(report: &Report) -> Value {
    let results: Vec<Value> = report.findings.iter().map(result).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "eagleray lint",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "informationUri": env!("CARGO_PKG_REPOSITORY"),
                "rules": super::rules().map(described).collect::<Vec<_>>(),
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn described(rule: &'static Rule) -> Value {
    let mut described = json!({
        "id": rule.id,
        "shortDescription": {"text": rule.summary},
        "fullDescription": {"text": rule.why},
        "help": {"text": rule.remedy},
        "defaultConfiguration": {"level": level(rule.severity)},
    });
    if let Some(source) =
        rule.upstream.iter().map(|source| link(source)).find(|link| link.starts_with("https://"))
    {
        described["helpUri"] = json!(source);
    }
    described
}

fn result(finding: &Finding) -> Value {
    let index = super::rules().position(|rule| rule.id == finding.rule);
    let mut place = json!({"artifactLocation": {"uri": uri(&finding.file)}});
    // An object of a cluster has no lines, and its name is an address as it is.
    if finding.line > 0 {
        place["region"] = json!({"startLine": finding.line, "startColumn": finding.column});
    } else {
        place["artifactLocation"]["uri"] = json!(finding.file);
    }
    let mut location = json!({"physicalLocation": place});
    if !finding.path.is_empty() {
        location["logicalLocations"] = json!([{"fullyQualifiedName": finding.path}]);
    }
    json!({
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": level(finding.severity),
        "message": {"text": format!("{}; {}", finding.message, finding.remedy)},
        "locations": [location],
    })
}

const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "note",
    }
}

/// A path as a reference in a URI: what would end or change it is escaped.
fn uri(path: &str) -> String {
    let mut uri = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            uri.push(byte as char);
        } else {
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri
}
