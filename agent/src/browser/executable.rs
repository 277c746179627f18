//! Which browser is started, and with what.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use browserfleet_proto::action::{BrowserKind, Code, Rejection};
use nix::sys::statvfs::statvfs;

/// Where each kind is looked for, best first. Debian's commands are shell
/// scripts that stay in between; what they start is named first.
const SHELLS: [&str; 3] = [
    "/usr/lib/chromium/chromium-headless-shell",
    "chromium-headless-shell",
    "chrome-headless-shell",
];
const FULLS: [&str; 5] = [
    "/usr/lib/chromium/chromium",
    "chromium",
    "/opt/google/chrome/chrome",
    "google-chrome",
    "google-chrome-stable",
];

/// Below this much shared memory Chrome's renderers run out of it, as they do in
/// a container's default 64 MiB.
const SHARED_MEMORY_BYTES_MIN: u64 = 256 * 1024 * 1024;

/// What Chrome is told at every start.
const FLAGS: [&str; 29] = [
    "--remote-debugging-pipe",
    // Nothing that asks, greets, syncs, updates or reports.
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-client-side-phishing-detection",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-field-trial-config",
    "--disable-search-engine-choice-screen",
    "--disable-sync",
    "--metrics-recording-only",
    "--no-pings",
    "--no-service-autorun",
    "--password-store=basic",
    "--use-mock-keychain",
    // A packet filter on TCP ports has to see all of a page's traffic.
    "--disable-quic",
    // A tab in the background does its work too.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--disable-ipc-flooding-protection",
    "--disable-hang-monitor",
    "--disable-popup-blocking",
    "--disable-features=Translate,OptimizationHints,MediaRouter,AcceptCHFrame,PaintHolding,HttpsUpgrades,GlobalMediaControls,DialMediaRouteProvider,RenderDocument",
    // A picture shows the page, and the viewport is as wide as it was asked for.
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--mute-audio",
];

/// A browser's program, found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Executable {
    pub(super) path: PathBuf,
    kind: BrowserKind,
}

impl Executable {
    /// The program for a kind: the configured one whatever it is, else the first
    /// that is there.
    pub(super) fn find(kind: BrowserKind, configured: Option<&Path>) -> Result<Self, Rejection> {
        if let Some(path) = configured {
            check(path)?;
            let path = path.to_owned();
            return Ok(Self { path, kind });
        }
        let preferred: &[&str] = match kind {
            BrowserKind::Shell => &SHELLS,
            BrowserKind::Full => &FULLS,
        };
        if let Some(path) = first(preferred) {
            return Ok(Self { path, kind });
        }
        // Any Chrome is better than none for whoever did not insist.
        match (kind, first(&FULLS)) {
            (BrowserKind::Shell, Some(path)) => Ok(Self {
                path,
                kind: BrowserKind::Full,
            }),
            _ => Err(failed(format!(
                "no browser is installed (looked for {}); install chromium and chromium-headless-shell, or set BROWSERFLEET_BROWSER_EXECUTABLE",
                preferred.join(", ")
            ))),
        }
    }

    /// Its arguments; everything it writes goes below `folder`. Chrome's sandbox does
    /// not work as root.
    pub(super) fn arguments(&self, folder: &Path, as_root: bool) -> Vec<String> {
        let mut arguments: Vec<String> = FLAGS.iter().map(|it| (*it).to_owned()).collect();
        arguments.push(format!(
            "--user-data-dir={}",
            folder.join("profile").display()
        ));
        if self.kind == BrowserKind::Full {
            arguments.push("--headless=new".into());
        }
        if as_root {
            arguments.push("--no-sandbox".into());
        }
        if statvfs("/dev/shm").map_or(0, |it| it.blocks() * it.fragment_size())
            < SHARED_MEMORY_BYTES_MIN
        {
            arguments.push("--disable-dev-shm-usage".into());
        }
        arguments.push("about:blank".into());
        arguments
    }
}

fn first(names: &[&str]) -> Option<PathBuf> {
    names.iter().find_map(|name| on_path(name))
}

/// PATH is where the machine keeps its programs, not a setting of ours.
fn on_path(name: &str) -> Option<PathBuf> {
    if name.starts_with('/') {
        return check(Path::new(name)).is_ok().then(|| name.into());
    }
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|path| check(path).is_ok())
}

fn check(path: &Path) -> Result<(), Rejection> {
    match fs::metadata(path) {
        Err(error) => Err(failed(format!("the browser {}: {error}", path.display()))),
        Ok(it) if !it.is_file() || it.permissions().mode() & 0o111 == 0 => Err(failed(format!(
            "the browser {} is not a program",
            path.display()
        ))),
        Ok(_) => Ok(()),
    }
}

/// A failed launch, in words.
pub(super) fn failed(reason: impl Into<String>) -> Rejection {
    Rejection::new(Code::LaunchFailed, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_browser_is_named() {
        let missing = Executable::find(BrowserKind::Shell, Some(Path::new("/no/such/browser")));
        let rejection = missing.expect_err("it is not there");
        assert_eq!(rejection.code, Code::LaunchFailed);
        assert!(
            rejection.message.contains("/no/such/browser"),
            "{rejection:?}"
        );
    }

    #[test]
    fn no_port_is_ever_opened_and_only_root_has_no_sandbox() {
        let executable = Executable {
            path: PathBuf::new(),
            kind: BrowserKind::Full,
        };
        let arguments = executable.arguments(Path::new("/tmp/x"), false);
        let without_sandbox = "--no-sandbox".to_owned();
        assert!(!arguments.contains(&without_sandbox));
        let as_root = executable.arguments(Path::new("/tmp/x"), true);
        assert!(as_root.contains(&without_sandbox));
        assert!(
            arguments
                .iter()
                .all(|it| !it.starts_with("--remote-debugging-port"))
        );
        assert!(arguments.contains(&"--remote-debugging-pipe".to_owned()));
    }
}
