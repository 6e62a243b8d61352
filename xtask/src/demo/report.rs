//! Tables for people.

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use serde_json::Value;

use super::row::Row;

/// The rows of the demo.
pub fn table(rows: &[Row], xdp: bool) -> Table {
    let mut table =
        empty(&["", "IP", "asked", "expected", "answered", if xdp { "in the kernel" } else { "path" }]);
    for row in rows {
        let (mark, color) = if row.good { ("ok", Color::Green) } else { ("FAIL", Color::Red) };
        table.add_row(vec![
            Cell::new(mark).fg(color).add_attribute(Attribute::Bold),
            Cell::new(row.family),
            Cell::new(&row.asked),
            Cell::new(&row.expected),
            Cell::new(&row.answered),
            Cell::new(&row.path),
        ]);
    }
    table
}

/// The counters of a status.
pub fn counters(status: &Value) -> Table {
    let mut table = empty(&["counter", "packets", "connections"]);
    let number = |value: &Value| value.as_u64().map(|n| n.to_string()).unwrap_or_default();
    let list = |key: &str| status[key].as_array().cloned().unwrap_or_default();
    for vip in list("vips") {
        let name = vip["vip"].as_str().unwrap_or_default();
        table.add_row(vec![format!("VIP {name}"), number(&vip["packets"]), number(&vip["connections"])]);
    }
    for sni in list("sni") {
        let name = sni["name"].as_str().unwrap_or_default();
        table.add_row(vec![format!("SNI {name}"), String::new(), number(&sni["connections"])]);
    }
    for (reason, count) in status["verdicts"].as_object().into_iter().flatten() {
        table.add_row(vec![format!("verdict {reason}"), number(count), String::new()]);
    }
    table
}

fn empty(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
    table
}
