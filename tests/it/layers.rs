//! The arrows between the modules point one way, and each heavy crate has one
//! door. Read from the `use` lines.

use std::path::{Path, PathBuf};

/// Lower layers first: a module may name those before its own line, and itself.
const LAYERS: &[&[&str]] = &[
    &["domain"],
    &["clock", "tasks"],
    &["config"],
    &["telemetry"],
    &["store", "provider", "relay"],
    &["error"],
    &["accounts", "sessions", "fleet"],
    &["api", "jobs"],
    &["app"],
    &["main", "lib"],
];
/// Modules that may know their neighbours of the same layer.
const NEIGHBOURS: &[(&str, &str)] = &[
    ("sessions", "accounts"),
    ("sessions", "fleet"),
    ("fleet", "accounts"),
];
/// Crate, and the folders or files that may name it.
const DOORS: &[(&str, &[&str])] = &[
    ("sqlx", &["control-plane/src/store"]),
    ("axum", &["control-plane/src/api"]),
    ("argon2", &["control-plane/src/accounts"]),
    ("jsonwebtoken", &["control-plane/src/accounts"]),
    (
        "tonic",
        &["control-plane/src/api/grpc", "agent/src/link", "proto/src"],
    ),
    ("headless_chrome", &["agent/src/browser"]),
    (
        "aws_config",
        &[
            "agent/src/host",
            "control-plane/src/provider/ec2",
            "control-plane/src/provider/ssm.rs",
        ],
    ),
    (
        "aws_sdk_ssm",
        &["agent/src/host", "control-plane/src/provider/ssm.rs"],
    ),
    ("aws_sdk_ec2", &["control-plane/src/provider/ec2"]),
    ("opentelemetry", &["control-plane/src/telemetry"]),
    ("opentelemetry_sdk", &["control-plane/src/telemetry"]),
    ("opentelemetry_prometheus", &["control-plane/src/telemetry"]),
    ("prometheus", &["control-plane/src/telemetry"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
}

fn all(folder: &str) -> Vec<(String, String)> {
    let root = root();
    let mut paths = Vec::new();
    sources(&root.join(folder), &mut paths);
    paths
        .into_iter()
        .map(|path| {
            let name = path
                .strip_prefix(&root)
                .unwrap()
                .to_string_lossy()
                .into_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn layer_of(module: &str) -> usize {
    let found = LAYERS.iter().position(|layer| layer.contains(&module));
    found.unwrap_or_else(|| panic!("`{module}` has no layer"))
}

#[test]
fn arrows_point_down_only() {
    for (name, text) in all("control-plane/src") {
        let inside = name.trim_start_matches("control-plane/src/");
        let own = inside.split('/').next().unwrap().trim_end_matches(".rs");
        for line in text.lines().map(str::trim) {
            let Some(rest) = line.strip_prefix("use crate::") else {
                continue;
            };
            let other = rest.split([':', ';']).next().unwrap();
            let down = layer_of(other) < layer_of(own) || other == own;
            assert!(down || NEIGHBOURS.contains(&(own, other)), "{name}: {line}");
        }
    }
}

#[test]
fn each_heavy_crate_has_one_door() {
    for folder in ["control-plane/src", "agent/src", "proto/src"] {
        for (name, text) in all(folder) {
            for (heavy, doors) in DOORS {
                let named = text.lines().map(str::trim).any(|line| {
                    line.starts_with(&format!("use {heavy}::"))
                        || line.starts_with(&format!("use {heavy};"))
                });
                assert!(
                    !named || doors.iter().any(|door| name.starts_with(door)),
                    "{name} names {heavy}"
                );
            }
        }
    }
}

#[test]
fn no_work_is_left_for_later() {
    let word = ["TO", "DO"].concat();
    for folder in ["control-plane/src", "agent/src", "proto/src", "tests"] {
        for (name, text) in all(folder) {
            assert!(!text.contains(&word), "{name}");
        }
    }
}
