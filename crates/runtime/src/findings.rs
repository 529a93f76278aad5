//! What a check of a deployment has found: one line for each thing that was looked at, and what to do about it.
//!
//! Goes in: findings. Comes out: a text for people, or JSON for programs. Never holds a secret: who makes a finding shows
//! addresses without passwords.

use std::fmt::{self, Write as _};

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Could not be looked at, or was not asked for.
    Skipped,
    /// Works, but a person should look at it.
    Warning,
    /// Does not work.
    Bad,
}

impl Verdict {
    /// The word at the beginning of a line.
    fn word(self) -> &'static str {
        match self {
            Verdict::Good => "ok",
            Verdict::Skipped => "skip",
            Verdict::Warning => "WARN",
            Verdict::Bad => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it belongs to: `table`, `ledger`, `broker`, …
    pub area: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found.
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// Findings in the order in which things were looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Adds something that is as it should be.
    pub fn good(&mut self, area: &'static str, text: impl Into<String>) {
        self.add(area, Verdict::Good, text.into(), None);
    }

    /// Adds something that could not be looked at; `fix` says how it can be.
    pub fn skipped(&mut self, area: &'static str, text: impl Into<String>, fix: impl Into<String>) {
        self.add(area, Verdict::Skipped, text.into(), Some(fix.into()));
    }

    /// Adds something that a person should look at.
    pub fn warning(&mut self, area: &'static str, text: impl Into<String>, fix: impl Into<String>) {
        self.add(area, Verdict::Warning, text.into(), Some(fix.into()));
    }

    /// Adds something that does not work.
    pub fn bad(&mut self, area: &'static str, text: impl Into<String>, fix: impl Into<String>) {
        self.add(area, Verdict::Bad, text.into(), Some(fix.into()));
    }

    fn add(&mut self, area: &'static str, verdict: Verdict, text: String, fix: Option<String>) {
        self.0.push(Finding { area, verdict, text, fix: fix.filter(|fix| !fix.is_empty()) });
    }

    /// Adds all of another check.
    pub fn extend(&mut self, others: Findings) {
        self.0.extend(others.0);
    }

    /// All of them.
    pub fn all(&self) -> &[Finding] {
        &self.0
    }

    /// The worst verdict; good if nothing was looked at.
    pub fn worst(&self) -> Verdict {
        self.0.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Good)
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.0.iter().filter(|finding| finding.verdict == verdict).count()
    }

    /// How many there are of each kind, in one line.
    pub fn summary(&self) -> String {
        format!(
            "{} ok, {} to look at, {} failed, {} skipped",
            self.count(Verdict::Good),
            self.count(Verdict::Warning),
            self.count(Verdict::Bad),
            self.count(Verdict::Skipped)
        )
    }

    /// As JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({ "verdict": self.worst(), "findings": self.0 })
    }
}

impl fmt::Display for Findings {
    /// A block for each area, a line for each finding, and its fix below it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut area = "";
        let mut text = String::new();
        for finding in &self.0 {
            if finding.area != area {
                area = finding.area;
                writeln!(text, "{area}")?;
            }
            writeln!(text, "  {:4}  {}", finding.verdict.word(), finding.text)?;
            for line in finding.fix.iter().flat_map(|fix| fix.lines()) {
                writeln!(text, "        {line}")?;
            }
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_for_each_area() {
        let mut findings = Findings::default();
        assert_eq!(findings.worst(), Verdict::Good);
        findings.good("table", "rows can be read");
        findings.warning("table", "the user may do more", "REVOKE UPDATE");
        findings.bad("broker", "no login", "check the password\nor the user");
        findings.skipped("broker", "no stream", "");
        assert_eq!(findings.worst(), Verdict::Bad);
        assert_eq!(
            findings.to_string(),
            "table\n  ok    rows can be read\n  WARN  the user may do more\n        REVOKE UPDATE\nbroker\n  FAIL  no \
             login\n        check the password\n        or the user\n  skip  no stream\n"
        );
        assert_eq!(findings.summary(), "1 ok, 1 to look at, 1 failed, 1 skipped");
        assert_eq!(findings.json()["findings"][1]["verdict"], "warning");
    }
}
