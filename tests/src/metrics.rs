//! What Prometheus would read.

use std::collections::BTreeMap;

use anyhow::Context;

/// Every series with its value, as `name{label="word"}`.
#[derive(Debug, Clone)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Reads them.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub async fn read(url: &str) -> anyhow::Result<Self> {
        let text = reqwest::get(url).await?.error_for_status()?.text().await?;
        let lines = text.lines().filter(|it| !it.starts_with('#'));
        let series = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').context("a series has a value")?;
            Ok((series.to_owned(), value.parse()?))
        });
        Ok(Self(series.collect::<anyhow::Result<_>>()?))
    }

    /// Their names and labels.
    pub fn series(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// How many series there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// One value; nothing where there is no such series.
    #[must_use]
    pub fn value(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }
}
