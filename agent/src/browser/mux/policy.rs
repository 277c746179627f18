//! Which commands of clients are not passed on as they are: all of them, on one screen.
//!
//! Who speaks CDP may do what the browser's user may; the operating system is the
//! boundary. These rules keep honest clients from what would surprise them: paths of
//! their own machine, and commands that are the whole session's.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::message::Request;

/// How deep commands may be packed into `Target.sendMessageToTarget`.
const PACKED_MAX: usize = 4;

/// What becomes of a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// It goes to Chrome.
    Pass,
    /// It goes to Chrome with these parameters.
    Change(String),
    /// It gets an error that says so; nothing else happens.
    Refuse(String),
    /// The client is done with the browser.
    Close,
}

/// What a session's clients may use of the machine.
#[derive(Debug, Clone)]
pub(super) struct Folders {
    /// The browser's own.
    pub(super) own: PathBuf,
    /// Where its downloads go.
    pub(super) downloads: PathBuf,
}

impl Folders {
    pub(super) fn rule(&self, method: &str, params: Option<&str>) -> Rule {
        self.rule_for(method, params, PACKED_MAX)
    }

    fn rule_for(&self, method: &str, params: Option<&str>, depth: usize) -> Rule {
        self.judge(method, params, depth)
            .unwrap_or_else(|rule| rule)
    }

    /// `Err` is the rule for what cannot be looked at.
    fn judge(&self, method: &str, params: Option<&str>, depth: usize) -> Result<Rule, Rule> {
        let named = |key: &str| read(params).map(|it| it.and_then(|mut it| it.remove(key)));
        Ok(match method {
            "Browser.close" => Rule::Close,
            // A page would speak to the browser past all of these rules.
            "Target.exposeDevToolsProtocol" => {
                Rule::Refuse("pages are not given the protocol here".into())
            }
            "Browser.setDownloadBehavior" => self.downloads(read(params)?, true),
            // The older one names files by what pages call them, less what is no name.
            "Page.setDownloadBehavior" => self.downloads(read(params)?, false),
            "DOM.setFileInputFiles" => self.uploads(named("files")?),
            "Page.navigate" | "Target.createTarget" => match named("url")? {
                Some(Value::String(url)) if is_a_file(&url) => {
                    Rule::Refuse("files of the browser's machine are not shown".into())
                }
                _ => Rule::Pass,
            },
            "Target.sendMessageToTarget" => self.packed(read(params)?, depth),
            _ => Rule::Pass,
        })
    }

    /// The path is one of the client's machine; here the folder is the session's. Each
    /// file is named by Chrome, so that no name of a page's choice is ever a path.
    fn downloads(&self, params: Option<Params>, is_named: bool) -> Rule {
        let Some(mut params) = params else {
            return Rule::Pass;
        };
        let allows = matches!(params.get("behavior"), Some(Value::String(it)) if it == "allow");
        if allows && is_named {
            params.insert("behavior".into(), "allowAndName".into());
        }
        let folder = self.downloads.to_string_lossy();
        params.insert("downloadPath".into(), folder.into());
        Rule::Change(Value::Object(params).to_string())
    }

    fn uploads(&self, files: Option<Value>) -> Rule {
        let Some(Value::Array(files)) = files else {
            return Rule::Pass;
        };
        let inside = files.iter().all(|file| {
            let path = file.as_str().map(Path::new);
            path.is_some_and(|it| it.starts_with(&self.own) && !climbs(it))
        });
        if inside {
            Rule::Pass
        } else {
            Rule::Refuse(
                "the files of your machine are not on the browser's; send their content (Playwright does with a connection like this, up to 50 MB)"
                    .into(),
            )
        }
    }

    /// A command in a command, as clients from before 2019 have them.
    fn packed(&self, params: Option<Params>, depth: usize) -> Rule {
        let Some(mut params) = params else {
            return Rule::Pass;
        };
        let Some(Value::String(message)) = params.get("message") else {
            return Rule::Pass;
        };
        let Some(depth) = depth.checked_sub(1) else {
            return Rule::Refuse("packed too deep".into());
        };
        let Ok(inner) = Request::read(message.as_bytes()) else {
            return Rule::Refuse("the message in it cannot be read".into());
        };
        match self.rule_for(&inner.method, inner.params, depth) {
            Rule::Change(changed) => {
                let message = inner.with_params(message, &changed);
                params.insert("message".into(), message.into());
                Rule::Change(Value::Object(params).to_string())
            }
            other => other,
        }
    }
}

type Params = Map<String, Value>;

/// Parameters that a rule is about. None need not be; what Chrome might read and this
/// cannot is not passed on.
fn read(params: Option<&str>) -> Result<Option<Params>, Rule> {
    match params.map(serde_json::from_str) {
        None => Ok(None),
        Some(Ok(Value::Object(params))) => Ok(Some(params)),
        Some(_) => Err(Rule::Refuse("its parameters cannot be read".into())),
    }
}

fn climbs(path: &Path) -> bool {
    path.components()
        .any(|it| matches!(it, std::path::Component::ParentDir))
}

/// As Chrome reads addresses: without what is around them, in any case.
fn is_a_file(url: &str) -> bool {
    let mut scheme: String = url
        .chars()
        .filter(|it| !it.is_ascii_control() && *it != ' ')
        .take(64)
        .collect();
    scheme.make_ascii_lowercase();
    let bare = scheme.trim_start_matches("view-source:");
    bare.starts_with("file:") || bare.starts_with("filesystem:file:")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(method: &str, params: &str) -> Rule {
        let own = PathBuf::from("/data/browsers/1");
        let downloads = own.join("downloads");
        Folders { own, downloads }.rule(method, Some(params))
    }

    #[test]
    fn downloads_stay_in_the_sessions_folder() {
        for (method, path, behavior) in [
            (
                "Browser.setDownloadBehavior",
                "/tmp/of/the/client",
                "allowAndName",
            ),
            (
                "Page.setDownloadBehavior",
                "/data/browsers/1/../../..",
                "allow",
            ),
        ] {
            let asked = format!(r#"{{"behavior":"allow","downloadPath":"{path}"}}"#);
            let Rule::Change(changed) = rule(method, &asked) else {
                panic!("{method} was passed on");
            };
            let changed: Value = serde_json::from_str(&changed).expect("JSON");
            assert_eq!(changed["downloadPath"], "/data/browsers/1/downloads");
            assert_eq!(changed["behavior"], behavior);
        }
        let packed = r#"{"targetId":"t","message":"{\"id\":1,\"method\":\"Page.setDownloadBehavior\",\"params\":{\"behavior\":\"allow\",\"downloadPath\":\"/etc\"}}"}"#;
        let Rule::Change(changed) = rule("Target.sendMessageToTarget", packed) else {
            panic!("it was passed on");
        };
        assert!(!changed.contains("/etc") && changed.contains("/data/browsers/1/downloads"));
    }

    #[test]
    fn files_of_the_machine_are_neither_shown_nor_sent() {
        let files = |path: &str| {
            rule(
                "DOM.setFileInputFiles",
                &format!(r#"{{"files":["{path}"]}}"#),
            )
        };
        assert!(matches!(files("/etc/passwd"), Rule::Refuse(_)));
        assert!(matches!(files("/data/browsers/1/../2/x"), Rule::Refuse(_)));
        assert!(matches!(files("/data/browsers/10/x"), Rule::Refuse(_)));
        assert_eq!(files("/data/browsers/1/downloads/x"), Rule::Pass);
        assert_eq!(rule("DOM.setFileInputFiles", r#"{"files":[]}"#), Rule::Pass);
        for url in [
            "file:///etc/passwd",
            " FILE:/etc",
            "fi\\tle:///x",
            "view-source:file:///x",
        ] {
            let params = format!(r#"{{"url":"{url}"}}"#);
            for method in ["Page.navigate", "Target.createTarget"] {
                assert!(matches!(rule(method, &params), Rule::Refuse(_)), "{url}");
            }
        }
        assert_eq!(
            rule("Page.navigate", r#"{"url":"https://a/file:"}"#),
            Rule::Pass
        );
    }

    /// Chrome takes what is no text in Unicode, and more levels than are read here.
    #[test]
    fn what_cannot_be_looked_at_is_not_passed_on() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for (method, params) in [
            (
                "Browser.setDownloadBehavior",
                r#""behavior":"allow","downloadPath":"/tmp""#,
            ),
            ("DOM.setFileInputFiles", r#""files":["/etc/passwd"]"#),
            ("Page.navigate", r#""url":"file:///etc/passwd""#),
        ] {
            for odd in [r#""\ud800""#, &deep] {
                let params = format!(r#"{{{params},"z":{odd}}}"#);
                assert!(matches!(rule(method, &params), Rule::Refuse(_)), "{params}");
                let packed = format!(r#"{{"id":1,"method":"{method}","params":{params}}}"#);
                let packed = serde_json::json!({ "message": packed }).to_string();
                let packed = rule("Target.sendMessageToTarget", &packed);
                assert!(matches!(packed, Rule::Refuse(_)), "{params}");
            }
        }
        // An expression may have it where no rule is about it.
        let message = r#"{"id":1,"method":"Runtime.evaluate","params":{"expression":"'\ud800'"}}"#;
        let packed = serde_json::json!({ "message": message }).to_string();
        assert_eq!(rule("Target.sendMessageToTarget", &packed), Rule::Pass);
    }

    #[test]
    fn all_else_is_chromes_to_judge() {
        for method in ["Browser.crash", "Runtime.evaluate", "No.such"] {
            assert_eq!(rule(method, "{}"), Rule::Pass);
        }
        assert_eq!(rule("Browser.close", "{}"), Rule::Close);
    }
}
