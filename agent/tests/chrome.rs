//! The browser alone, with real Chrome and no control plane.
#![expect(clippy::unwrap_used, reason = "a test fails where it expects")]

use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::time::Duration;

use browserfleet_agent::browser::launcher::{ChromeLauncher, Settings};
use browserfleet_agent::browser::user::User;
use browserfleet_agent::browser::{Browser, EndReason, Launcher, Notice, Performed};
use browserfleet_proto::action::{
    Action, Answer, AnswerDialog, Area, BrowserKind, Click, ClickTarget, Code, DialogPolicy,
    Execute, ImageFormat, MouseButton, Navigate, Screenshot, Script, SessionOptions, Type,
    Viewport, WaitUntil,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

const PAGE: &str = r#"<!doctype html><title>Small page</title>
<h1>Hello</h1>
<input id=name><button onclick="document.title = 'Hi ' + document.querySelector('input').value">Greet</button>
<button id=alert onclick="alert('boo'); document.title = 'after'">Alert</button>
<a href="/" target=_blank>Other</a>
<div id=host></div>
<script>host.attachShadow({mode: 'open'}).innerHTML = '<button onclick="document.title = `shadow`">Deep</button>'</script>"#;

fn options() -> SessionOptions {
    SessionOptions {
        browser: BrowserKind::Shell,
        viewport: Viewport {
            width: 1280,
            height: 720,
            scale: 1.0,
        },
        user_agent: String::new(),
        locale: String::new(),
        timezone: String::new(),
        dialogs: DialogPolicy::Dismiss,
    }
}

/// Serves [`PAGE`] everywhere, but never answers for `/silent`.
async fn site() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    browserfleet_agent::tasks::spawn("site", async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            browserfleet_agent::tasks::spawn("visitor", async move {
                let mut request = vec![0; 4096];
                let read = socket.read(&mut request).await.unwrap_or(0);
                if request[..read].starts_with(b"GET /silent") {
                    return std::future::pending::<()>().await;
                }
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{PAGE}",
                    PAGE.len()
                );
                drop(socket.write_all(answer.as_bytes()).await);
            });
        }
    });
    format!("http://{address}/")
}

struct Stage {
    launcher: ChromeLauncher,
    folder: TempDir,
    groups: Mutex<Vec<i32>>,
}

impl Stage {
    fn new() -> Self {
        Self::of_user(None)
    }

    fn of_user(user: Option<User>) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o711)).unwrap();
        let settings = Settings {
            executable: None,
            folder: folder.path().to_owned(),
            spares: 0,
            user,
        };
        Self {
            launcher: ChromeLauncher::start(settings).unwrap(),
            folder,
            groups: Mutex::default(),
        }
    }

    async fn browser(&self, options: SessionOptions) -> Box<dyn Browser> {
        let deadline = Instant::now() + Duration::from_secs(15);
        let browser = self.launcher.launch(&options, deadline).await.unwrap();
        self.groups.lock().unwrap().extend(self.main_processes());
        browser
    }

    /// Only the main process has the folder in its command line.
    fn main_processes(&self) -> Vec<i32> {
        let folder = self.folder.path().to_string_lossy().into_owned();
        let ours = |line: &str| line.contains(&folder) && !line.contains("--type=");
        all_processes()
            .into_iter()
            .filter(|it| ours(&it.2))
            .map(|it| it.0)
            .collect()
    }

    fn renderers(&self) -> Vec<i32> {
        let groups = self.groups.lock().unwrap();
        let ours =
            |it: &(i32, i32, String)| groups.contains(&it.1) && it.2.contains("--type=renderer");
        all_processes()
            .into_iter()
            .filter(ours)
            .map(|it| it.0)
            .collect()
    }

    fn leftovers(&self) -> usize {
        let groups = self.groups.lock().unwrap();
        let processes = all_processes()
            .iter()
            .filter(|it| groups.contains(&it.1))
            .count();
        std::fs::read_dir(self.folder.path()).unwrap().count() + processes
    }
}

/// Process, group and command line of all processes.
fn all_processes() -> Vec<(i32, i32, String)> {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|it| {
            let line = std::fs::read_to_string(it.path().join("cmdline")).ok()?;
            let stat = std::fs::read_to_string(it.path().join("stat")).ok()?;
            let group = stat.rsplit_once(") ")?.1.split(' ').nth(2)?.parse().ok()?;
            Some((it.file_name().to_str()?.parse().ok()?, group, line))
        })
        .collect()
}

fn kill(processes: &[i32]) {
    assert!(!processes.is_empty());
    for process in processes {
        let process = nix::unistd::Pid::from_raw(*process);
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
}

async fn act(browser: &mut dyn Browser, action: Action) -> Performed {
    browser
        .act(&action, Instant::now() + Duration::from_secs(5))
        .await
}

async fn act_for(browser: &mut dyn Browser, action: Action, milliseconds: u64) -> Performed {
    browser
        .act(
            &action,
            Instant::now() + Duration::from_millis(milliseconds),
        )
        .await
}

fn navigate(url: &str) -> Action {
    Action::Navigate(Navigate {
        url: url.into(),
        wait_until: WaitUntil::Load,
        referer: String::new(),
    })
}

fn click(selector: &str) -> Action {
    Action::Click(Click {
        target: ClickTarget::Selector(selector.into()),
        button: MouseButton::Left,
        click_count: 1,
        modifiers: 0,
    })
}

fn execute(expression: &str) -> Action {
    Action::Execute(Execute {
        script: Script::Expression(expression.into()),
        await_promise: true,
    })
}

fn picture() -> Action {
    Action::Screenshot(Screenshot {
        format: ImageFormat::Png,
        quality: None,
        area: Area::Viewport,
        scale: 1.0,
        omit_background: false,
    })
}

/// The users that the processes of a group run as; of each all four numbers.
fn users(groups: &[i32]) -> Vec<String> {
    all_processes()
        .into_iter()
        .filter(|it| groups.contains(&it.1))
        .filter_map(|it| std::fs::read_to_string(format!("/proc/{}/status", it.0)).ok())
        .filter_map(|it| Some(it.lines().find(|it| it.starts_with("Uid:"))?.to_owned()))
        .collect()
}

/// Whether a process of the group could do more than its user may.
fn has_rights(groups: &[i32]) -> bool {
    all_processes()
        .into_iter()
        .filter(|it| groups.contains(&it.1) && !it.2.contains("--type="))
        .filter_map(|it| std::fs::read_to_string(format!("/proc/{}/status", it.0)).ok())
        .any(|it| {
            it.lines().any(|it| {
                let inherits = ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"];
                inherits.iter().any(|name| it.starts_with(name))
                    && !it.ends_with("0000000000000000")
            })
        })
}

async fn value(browser: &mut dyn Browser, expression: &str) -> String {
    match act(browser, execute(expression)).await.outcome {
        Ok(Answer::Evaluated(it)) => format!("{} {}", it.kind, it.value.get()),
        other => panic!("{other:?}"),
    }
}

fn code(performed: &Performed) -> Option<Code> {
    performed.outcome.as_ref().err().map(|it| it.code)
}

#[tokio::test]
async fn a_page_is_opened_clicked_typed_into_and_shot() {
    let (stage, url) = (Stage::new(), site().await);
    let mut browser = stage.browser(options()).await;
    let arrived = act(&mut *browser, navigate(&url)).await;
    let Ok(Answer::Navigated(arrived)) = arrived.outcome else {
        panic!("{arrived:?}");
    };
    assert_eq!(
        (arrived.status, arrived.title.as_str()),
        (Some(200), "Small page")
    );
    let typed = Action::Type(Type {
        selector: Some("#name".into()),
        text: "Ada ☃".into(),
        clear: true,
        delay_ms: 0,
        submit: false,
    });
    assert!(act(&mut *browser, typed).await.outcome.is_ok());
    for (selector, title) in [
        ("role=button[name=\"Greet\"]", "Hi Ada ☃"),
        ("text=Deep", "shadow"),
        ("xpath=//button[1]", "Hi Ada ☃"),
    ] {
        let clicked = act(&mut *browser, click(selector)).await;
        assert!(clicked.outcome.is_ok(), "{clicked:?}");
        assert_eq!(
            value(&mut *browser, "document.title").await,
            format!("string {title:?}")
        );
    }
    let shot = act(&mut *browser, picture()).await;
    assert!(
        matches!(shot.outcome, Ok(Answer::Captured(it)) if (it.width, it.height) == (1280, 720))
    );
    assert!(shot.payload.is_some_and(|it| it.len() > 1000));
    let Ok(Answer::State(state)) = act(&mut *browser, Action::State).await.outcome else {
        panic!("no state");
    };
    assert_eq!((state.tabs.len(), state.url), (1, url));
    browser.close().await;
    assert_eq!(stage.leftovers(), 0);
}

#[tokio::test]
async fn values_that_json_lacks_have_a_form() {
    let stage = Stage::new();
    let mut browser = stage.browser(options()).await;
    for (expression, expected) in [
        ("1 + 1", "number 2"),
        ("undefined", "undefined null"),
        ("NaN", r#"number {"$number":"NaN"}"#),
        ("12n", r#"bigint {"$bigint":"12"}"#),
        (
            "new Date(0)",
            r#"date {"$date":"1970-01-01T00:00:00.000Z"}"#,
        ),
        (
            "new Map([[1, {a: NaN}]])",
            r#"map {"$map":[[1,{"a":{"$number":"NaN"}}]]}"#,
        ),
        ("Promise.resolve([1, undefined])", "array [1,null]"),
        (
            "const a = {}; a.self = a; a",
            r#"object {"self":{"$ref":"$"}}"#,
        ),
        ("'\\ud800'.length", "number 1"),
    ] {
        assert_eq!(
            value(&mut *browser, expression).await,
            expected,
            "{expression}"
        );
    }
    let thrown = act(&mut *browser, execute("\nthrow new TypeError('no')")).await;
    let rejection = thrown.outcome.unwrap_err();
    assert_eq!(rejection.code, Code::ScriptError);
    let detail: serde_json::Value = serde_json::from_str(&rejection.detail).unwrap();
    assert_eq!(
        (&detail["line"], &detail["name"]),
        (&2.into(), &"TypeError".into())
    );
    browser.close().await;
}

#[tokio::test]
async fn a_script_without_end_costs_its_own_deadline_only() {
    let (stage, url) = (Stage::new(), site().await);
    let mut browser = stage.browser(options()).await;
    for stuck in [
        "while (1);",
        "setTimeout(() => { while (1); }); new Promise(() => {})",
    ] {
        let performed = act_for(&mut *browser, execute(stuck), 400).await;
        assert_eq!(
            code(&performed),
            Some(Code::CommandTimeout),
            "{performed:?}"
        );
        let started = Instant::now();
        let next = act(&mut *browser, navigate(&url)).await;
        assert!(next.outcome.is_ok(), "{next:?}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }
    browser.close().await;
}

#[tokio::test]
async fn a_server_that_says_nothing_costs_the_deadline_only() {
    let (stage, url) = (Stage::new(), site().await);
    let mut browser = stage.browser(options()).await;
    let silent = act_for(&mut *browser, navigate(&format!("{url}silent")), 500).await;
    assert_eq!(code(&silent), Some(Code::NavigationTimeout), "{silent:?}");
    assert!(act(&mut *browser, navigate(&url)).await.outcome.is_ok());
    for (url, expected) in [
        ("http://127.0.0.1:1/", Code::UrlBlocked),
        ("http://127.0.0.1:9999/", Code::ConnectionRefused),
        ("http://no-such-host.invalid/", Code::NameNotResolved),
        ("file:///etc/passwd", Code::UrlBlocked),
    ] {
        assert_eq!(
            code(&act(&mut *browser, navigate(url)).await),
            Some(expected),
            "{url}"
        );
    }
    browser.close().await;
}

#[tokio::test]
async fn dialogs_follow_the_policy() {
    let (stage, url) = (Stage::new(), site().await);
    let mut browser = stage.browser(options()).await;
    act(&mut *browser, navigate(&url)).await;
    assert_eq!(
        value(&mut *browser, "confirm('sure?')").await,
        "boolean false"
    );
    let endless = act_for(&mut *browser, execute("while (1) alert('again')"), 3000).await;
    assert!(endless.outcome.is_err(), "{endless:?}");
    let next = act(&mut *browser, navigate(&url)).await;
    assert!(next.outcome.is_ok(), "{next:?}");
    browser.close().await;

    let report = SessionOptions {
        dialogs: DialogPolicy::Report,
        ..options()
    };
    let mut browser = stage.browser(report).await;
    act(&mut *browser, navigate(&url)).await;
    let met = act(&mut *browser, click("#alert")).await;
    assert_eq!(code(&met), Some(Code::DialogOpen), "{met:?}");
    let Ok(Answer::State(state)) = act(&mut *browser, Action::State).await.outcome else {
        panic!("no state");
    };
    assert_eq!(state.dialog.map(|it| it.message), Some("boo".into()));
    let answer = Action::Dialog(AnswerDialog {
        accept: true,
        text: String::new(),
    });
    assert!(act(&mut *browser, answer.clone()).await.outcome.is_ok());
    assert_eq!(
        value(&mut *browser, "document.title").await,
        "string \"after\""
    );
    assert_eq!(
        code(&act(&mut *browser, answer).await),
        Some(Code::NoDialog)
    );
    browser.close().await;
    assert_eq!(stage.leftovers(), 0);
}

#[tokio::test]
async fn popups_become_tabs_and_the_newest_is_active() {
    let (stage, url) = (Stage::new(), site().await);
    let mut browser = stage.browser(options()).await;
    act(&mut *browser, navigate(&url)).await;
    assert!(
        act(&mut *browser, click("text=Other"))
            .await
            .outcome
            .is_ok()
    );
    value(
        &mut *browser,
        "for (let i = 0; i < 100; i++) open('about:blank'); 1",
    )
    .await;
    let Ok(Answer::State(state)) = act(&mut *browser, Action::State).await.outcome else {
        panic!("no state");
    };
    assert!((2..=32).contains(&state.tabs.len()), "{}", state.tabs.len());
    assert!(act(&mut *browser, navigate(&url)).await.outcome.is_ok());
    browser.close().await;
    assert_eq!(stage.leftovers(), 0);
}

#[tokio::test]
async fn a_crashed_page_is_told_at_once_and_replaced() {
    let (stage, url) = (Stage::new(), site().await);
    let mut browser = stage.browser(options()).await;
    act(&mut *browser, navigate(&url)).await;
    kill(&stage.renderers());
    let performed = act(&mut *browser, execute("new Promise(() => {})")).await;
    assert_eq!(code(&performed), Some(Code::PageCrashed), "{performed:?}");
    let next = act(&mut *browser, navigate(&url)).await;
    assert!(next.outcome.is_ok(), "{next:?}");
    browser.close().await;
    assert_eq!(stage.leftovers(), 0);
}

#[tokio::test]
async fn a_killed_browser_says_so_and_leaves_nothing() {
    let stage = Stage::new();
    let mut browser = stage.browser(options()).await;
    let mut notices = browser.notices();
    kill(&stage.main_processes());
    let ended = async {
        loop {
            match notices.recv().await {
                Some(Notice::Ended { reason, .. }) => break reason,
                Some(_) => {}
                None => panic!("no end"),
            }
        }
    };
    let reason = tokio::time::timeout(Duration::from_secs(2), ended).await;
    assert_eq!(reason, Ok(EndReason::BrowserCrashed));
    browser.close().await;
    assert_eq!(stage.leftovers(), 0);
}

#[tokio::test]
async fn a_browser_that_cannot_start_says_why() {
    let programs = TempDir::new().unwrap();
    let hangs = programs.path().join("hangs");
    std::fs::write(&hangs, "#!/bin/sh\nexec sleep 60\n").unwrap();
    std::fs::set_permissions(&hangs, PermissionsExt::from_mode(0o755)).unwrap();
    for (executable, words) in [
        ("/no/such/browser", "/no/such/browser"),
        (hangs.to_str().unwrap(), "it did not answer in time"),
        ("/bin/false", "exit status: 1"),
        ("/bin/cat", "exit status: 1"),
    ] {
        let folder = TempDir::new().unwrap();
        let launcher = ChromeLauncher::start(Settings {
            executable: Some(executable.into()),
            folder: folder.path().to_owned(),
            spares: 0,
            user: None,
        })
        .unwrap();
        let deadline = Instant::now() + Duration::from_secs(3);
        let options = options();
        let Err(rejection) = launcher.launch(&options, deadline).await else {
            panic!("{executable} is no browser");
        };
        assert_eq!(rejection.code, Code::LaunchFailed);
        assert!(rejection.message.contains(words), "{rejection:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_spare_that_hangs_costs_seconds_and_is_replaced() {
    let mut stage = Stage::new();
    stage.launcher = ChromeLauncher::start(Settings {
        executable: None,
        folder: stage.folder.path().to_owned(),
        spares: 1,
        user: None,
    })
    .unwrap();
    let latest = Instant::now() + Duration::from_secs(10);
    while stage.launcher.spares() == 0 {
        assert!(Instant::now() < latest, "no spare was launched");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let hung = stage.main_processes();
    for process in &hung {
        let process = nix::unistd::Pid::from_raw(*process);
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGSTOP).unwrap();
    }
    let asked = Instant::now();
    let mut browser = stage.browser(options()).await;
    assert!(asked.elapsed() < Duration::from_secs(5));
    assert_eq!(value(&mut *browser, "1 + 1").await, "number 2");
    browser.close().await;
    let left = stage.main_processes();
    assert!(
        left.iter().all(|it| !hung.contains(it)),
        "the hung one is left"
    );
    stage.launcher.stop().await;
    assert_eq!(stage.leftovers(), 0);
}

/// A file system of so many bytes, for as long as it is there.
struct Volume(TempDir);

impl Volume {
    /// `None`: mounting is not allowed here.
    fn of(bytes: u32) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(folder.path())
            .status();
        mounted.is_ok_and(|it| it.success()).then_some(Self(folder))
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount")
            .arg(self.0.path())
            .status();
        assert!(unmounted.is_ok_and(|it| it.success()));
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error_in_time_and_leaves_nothing() {
    let Some(volume) = Volume::of(16 * 1024) else {
        eprintln!("skipped: only root may mount a small file system");
        return;
    };
    let filler = volume.0.path().join("filler");
    drop(std::fs::write(filler, vec![0; 32 * 1024]));
    let launcher = ChromeLauncher::start(Settings {
        executable: None,
        folder: volume.0.path().join("browsers"),
        spares: 0,
        user: None,
    });
    if let Ok(launcher) = launcher {
        let asked = Instant::now();
        let deadline = asked + Duration::from_secs(15);
        let options = options();
        let launched = launcher.launch(&options, deadline).await;
        assert!(asked.elapsed() < Duration::from_secs(16));
        match launched {
            Err(rejection) => assert_eq!(rejection.code, Code::LaunchFailed),
            // Some versions of Chrome run without a profile; then it has to work.
            Ok(mut browser) => {
                assert_eq!(value(&mut *browser, "1 + 1").await, "number 2");
                browser.close().await;
            }
        }
        launcher.stop().await;
    }
    let folder = volume.0.path().to_string_lossy().into_owned();
    let left = all_processes().iter().any(|it| it.2.contains(&folder));
    assert!(!left, "a process is left");
}

/// Only root can become another user.
#[tokio::test]
async fn a_browser_of_another_user_has_that_users_rights_and_leaves_nothing() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: the test does not run as root");
        return;
    }
    let user = User::find("nobody").unwrap();
    let number = user.uid.to_string();
    for kind in [BrowserKind::Shell, BrowserKind::Full] {
        let stage = Stage::of_user(Some(user.clone()));
        let site = site().await;
        let of_kind = SessionOptions {
            browser: kind,
            ..options()
        };
        let mut browser = stage.browser(of_kind).await;
        let navigated = act(&mut *browser, navigate(&site)).await.outcome;
        assert!(navigated.is_ok(), "{navigated:?}");

        let groups = stage.groups.lock().unwrap().clone();
        let users = users(&groups);
        assert!(users.len() > 1, "{users:?}");
        let theirs = |it: &String| it.split_whitespace().skip(1).all(|it| it == number);
        assert!(users.iter().all(theirs), "{users:?}");
        assert!(!has_rights(&groups));

        browser.close().await;
        assert_eq!(stage.leftovers(), 0);
    }
}

#[tokio::test]
async fn a_folder_that_the_browsers_user_cannot_enter_is_named_at_the_start() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: the test does not run as root");
        return;
    }
    let folder = TempDir::new().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let settings = Settings {
        executable: None,
        folder: folder.path().join("browsers"),
        spares: 0,
        user: Some(User::find("nobody").unwrap()),
    };
    let refused = ChromeLauncher::start(settings).err().unwrap().to_string();
    assert!(
        refused.contains(&format!("chmod o+x {}", folder.path().display())),
        "{refused}"
    );
}

/// Full Chromium starts helpers that leave its group.
#[tokio::test]
async fn no_helper_of_a_browser_stays_in_the_kernels_table() {
    let own = std::process::id().to_string();
    let children = || {
        let of = |entry: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let (name, rest) = stat.rsplit_once(") ")?;
            let crashpad = name.contains("crashpad") && rest.split(' ').nth(1) == Some(&own);
            crashpad.then(|| rest.to_owned())
        };
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(of)
            .collect::<Vec<_>>()
    };
    let stage = Stage::new();
    let full = SessionOptions {
        browser: BrowserKind::Full,
        ..options()
    };
    let browser = stage.browser(full).await;
    browser.close().await;
    let latest = Instant::now() + Duration::from_secs(5);
    while !children().is_empty() {
        assert!(Instant::now() < latest, "{:?}", children());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
