//! Counters and gauges as text that Prometheus reads (version 0.0.4).
//!
//! Not here: who may read it, over what.

use crate::telemetry::counter::ALL;
use crate::telemetry::counter::Unit;
use std::fmt::Write;

/// What the text is, for whoever asks over HTTP.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A value that goes up and down.
#[derive(Clone, PartialEq, Debug)]
pub struct Gauge {
    /// Without the prefix that all of ours have.
    pub name: &'static str,
    pub help: &'static str,
    /// Of this thing, as `("node", "3")`.
    pub label: Option<(&'static str, String)>,
    pub value: u64,
}

/// Every counter, then the gauges; those of one name stand together.
pub fn text(gauges: &[Gauge]) -> String {
    let mut text = String::new();
    let mut put = |line: std::fmt::Arguments<'_>| {
        text.write_fmt(line).expect("a string takes everything");
        text.push('\n');
    };
    for counter in ALL {
        let unit = match counter.unit {
            Unit::Count => "",
            Unit::Bytes => "_bytes",
            Unit::Microseconds => "_microseconds",
        };
        let name = counter.name();
        let name = format!("tsfs_{}{unit}_total", name.trim_end_matches("_bytes"));
        put(format_args!("# HELP {name} {}", counter.help));
        put(format_args!("# TYPE {name} counter"));
        put(format_args!("{name} {}", counter.get()));
    }
    let mut last = "";
    for Gauge { name, help, label, value } in gauges {
        if *name != last {
            put(format_args!("# HELP tsfs_{name} {help}"));
            put(format_args!("# TYPE tsfs_{name} gauge"));
            last = name;
        }
        match label {
            None => put(format_args!("tsfs_{name} {value}")),
            Some((key, of)) => {
                let of = of.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                put(format_args!("tsfs_{name}{{{key}=\"{of}\"}} {value}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_gauges_are_lines_that_prometheus_reads() {
        let lag = |node: &str, value| Gauge {
            name: "node_lag_entries",
            help: "How far.",
            label: Some(("node", node.to_owned())),
            value,
        };
        let text = text(&[lag("2", 5), lag("a\"b", 0)]);
        assert!(
            text.contains("# TYPE tsfs_log_bytes_total counter\ntsfs_log_bytes_total "),
            "{text}"
        );
        assert!(text.contains("tsfs_log_sync_time_microseconds_total "), "{text}");
        assert_eq!(text.matches("# TYPE tsfs_node_lag_entries gauge").count(), 1);
        assert!(text.ends_with(
            "tsfs_node_lag_entries{node=\"2\"} 5\ntsfs_node_lag_entries{node=\"a\\\"b\"} 0\n"
        ));
        let mut seen = std::collections::HashSet::new();
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            assert!(seen.insert(line), "twice: {line}");
        }
    }
}
