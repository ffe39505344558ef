//! A real browser: chromium without a window, driven as a person would.

// It says why it is not there.
#![allow(clippy::print_stderr)]

use super::TestDir;
use base64::{Engine, engine::general_purpose::STANDARD};
use headless_chrome::{
    Browser, LaunchOptions, Tab,
    browser::tab::ModifierKey,
    protocol::cdp::{Emulation, Input, Page, Runtime},
};
use serde_json::Value;
use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// What a browser may be called.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// How long something on a page may take before it counts as never. Machines that build beside it are slow.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// How often a browser is started that does not open its port within the 30 s that the library gives it.
const STARTS: usize = 5;
/// Remembers every line that the page says: some stand for seconds, and a test may look later.
const LISTEN: &str = "(() => {
    const line = document.getElementById('notice');
    self.said = [];
    if (!line) return;
    const hear = () => { if (!line.hidden && line.innerText) self.said.push(line.innerText); };
    new MutationObserver(hear).observe(line, { attributes: true, childList: true, characterData: true, subtree: true });
    hear();
})()";
/// One browser at a time: several would wait for each other's turn on few cores.
static TURN: Mutex<()> = Mutex::new(());

/// The browser of this machine: the one that `CHROME` names, or the first that is found. Says so where there is none.
pub fn find() -> Option<PathBuf> {
    let named = env::var_os("CHROME").map(PathBuf::from);
    let folders: Vec<PathBuf> = env::var_os("PATH").iter().flat_map(env::split_paths).collect();
    let known = NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let found = named.into_iter().chain(known).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: there is no browser here (chromium or google-chrome in PATH, or CHROME=/path/to/one)");
    }
    found
}

/// A browser, started again where a machine was too busy to start it in time.
fn start(options: &LaunchOptions) -> Browser {
    let mut problem = None;
    for _ in 0..STARTS {
        match Browser::new(options.clone()) {
            Ok(browser) => return browser,
            Err(error) => problem = Some(error),
        }
    }
    panic!("the browser does not start: {problem:?}");
}

/// A tab with the page in it.
pub struct Visit {
    tab: Arc<Tab>,
    /// Where downloads go.
    pub downloads: TestDir,
    _browser: Browser,
    _turn: MutexGuard<'static, ()>,
}

impl Visit {
    /// Opens the page and waits until it is ready.
    pub fn open(chrome: PathBuf, name: &str, url: &str, (width, height): (u32, u32)) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let options = LaunchOptions::default_builder()
            .path(Some(chrome))
            // In containers tests run as root, which chromium's sandbox refuses.
            .sandbox(false)
            .window_size(Some((width, height)))
            .idle_browser_timeout(PATIENCE)
            .args(vec![OsStr::new("--hide-scrollbars")])
            .build()
            .expect("the options are whole");
        let browser = start(&options);
        browser.set_default_timeout(PATIENCE);
        let tab = browser.new_tab().expect("it opens a tab");
        tab.set_default_timeout(PATIENCE);
        let downloads = TestDir::new(&format!("{name}-downloads"));
        let behavior = Page::SetDownloadBehavior {
            behavior: Page::SetDownloadBehaviorBehaviorOption::Allow,
            download_path: Some(downloads.path().to_string_lossy().into_owned()),
        };
        tab.call_method(behavior).expect("downloads have a place");
        let this = Self { tab, downloads, _browser: browser, _turn: turn };
        this.resize(width, height);
        this.go(&format!("{url}/"));
        this
    }

    /// Goes to an address of the page, or to it once more.
    pub fn go(&self, url: &str) {
        // What is ready and does not bear the mark of the document that is left is the new one. The library's own wait for
        // the end of a navigation misses it where it comes at once.
        self.js("document.isLeft = true");
        self.tab.navigate_to(url).expect("the page is there");
        self.until("!document.isLeft && document.documentElement?.dataset.ready === 'true'", "the page is ready");
        self.js(LISTEN);
    }

    /// Loads the page anew.
    pub fn reload(&self) {
        let url = self.js("location.href");
        self.go(url.as_str().expect("the page has an address"));
    }

    /// Makes the window another size.
    pub fn resize(&self, width: u32, height: u32) {
        let metrics = Emulation::SetDeviceMetricsOverride {
            width,
            height,
            device_scale_factor: 1.0,
            mobile: false,
            scale: None,
            screen_width: None,
            screen_height: None,
            position_x: None,
            position_y: None,
            dont_set_visible_size: None,
            screen_orientation: None,
            viewport: None,
            display_feature: None,
            device_posture: None,
        };
        self.tab.call_method(metrics).expect("the window has a size");
    }

    /// What an expression of the page's is, promises awaited.
    pub fn js(&self, expression: &str) -> Value {
        self.ask(expression).unwrap_or_else(|problem| panic!("{expression}: {problem}"))
    }

    /// The same, or why there is no answer.
    fn ask(&self, expression: &str) -> Result<Value, String> {
        let call = Runtime::Evaluate {
            expression: expression.to_owned(),
            return_by_value: Some(true),
            await_promise: Some(true),
            user_gesture: Some(true),
            generate_preview: None,
            silent: None,
            include_command_line_api: None,
            object_group: None,
            context_id: None,
            throw_on_side_effect: None,
            timeout: None,
            disable_breaks: None,
            repl_mode: None,
            allow_unsafe_eval_blocked_by_csp: None,
            unique_context_id: None,
            serialization_options: None,
        };
        let answer = self.tab.call_method(call).map_err(|problem| problem.to_string())?;
        match answer.exception_details {
            Some(problem) => Err(format!("{problem:?}")),
            None => Ok(answer.result.value.unwrap_or(Value::Null)),
        }
    }

    /// A number of the page's.
    pub fn number(&self, expression: &str) -> i64 {
        let value = self.js(expression);
        value.as_f64().unwrap_or_else(|| panic!("{expression} is {value}")) as i64
    }

    /// Words of the page's.
    pub fn text(&self, selector: &str) -> String {
        let value = self.js(&format!("document.querySelector({selector:?})?.innerText ?? ''"));
        value.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an expression, or what it promises, is true. A page that is just being left has no answer; that is no end.
    pub fn until(&self, expression: &str, what: &str) {
        let begin = Instant::now();
        loop {
            let answer = self.ask(&format!("Promise.resolve({expression}).then(Boolean)"));
            if answer == Ok(Value::Bool(true)) {
                return;
            }
            if begin.elapsed() > PATIENCE {
                let said = self.ask("self.said");
                panic!("never: {what} ({answer:?}). The page said: {said:?}");
            }
            thread::sleep(Duration::from_millis(40));
        }
    }

    /// Waits until the page has said something since it was opened: a part of it, as a regular expression of JavaScript.
    pub fn until_said(&self, part: &str) {
        self.until(&format!("self.said.some(line => /{part}/.test(line))"), &format!("the page says {part:?}"));
    }

    /// Clicks the middle of an element with the mouse.
    pub fn click(&self, selector: &str) {
        self.until(
            &format!("(e => e && e.offsetParent && !e.disabled)(document.querySelector({selector:?}))"),
            &format!("{selector} can be clicked"),
        );
        let place = self.js(&format!(
            "(e => {{ e.scrollIntoView({{ block: 'center' }}); const r = e.getBoundingClientRect(); \
             return [r.left + r.width / 2, r.top + r.height / 2]; }})(document.querySelector({selector:?}))"
        ));
        let [x, y] = [&place[0], &place[1]].map(|side| side.as_f64().expect("it has a place"));
        self.drag(&[(x, y)]);
    }

    /// Presses the mouse at the first of these points of the window, goes over the others, and lets go at the last.
    pub fn drag(&self, points: &[(f64, f64)]) {
        use Input::DispatchMouseEventTypeOption::{MouseMoved, MousePressed, MouseReleased};
        let (first, last) = (points[0], points[points.len() - 1]);
        self.mouse(MouseMoved, first, 0);
        self.mouse(MousePressed, first, 1);
        points[1..].iter().for_each(|point| self.mouse(MouseMoved, *point, 1));
        self.mouse(MouseReleased, last, 0);
    }

    fn mouse(&self, kind: Input::DispatchMouseEventTypeOption, (x, y): (f64, f64), buttons: u32) {
        let event = Input::DispatchMouseEvent {
            Type: kind,
            x,
            y,
            button: Some(Input::MouseButton::Left),
            buttons: Some(buttons),
            click_count: Some(1),
            modifiers: None,
            timestamp: None,
            force: None,
            tangential_pressure: None,
            tilt_x: None,
            tilt_y: None,
            twist: None,
            delta_x: None,
            delta_y: None,
            pointer_Type: None,
        };
        self.tab.call_method(event).expect("the mouse is there");
    }

    /// Drags over points of the picture on the stage.
    pub fn paint(&self, points: &[(f64, f64)]) {
        let place = self
            .js("(e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.width / e.width]; })\
             (document.getElementById('picture'))");
        let [left, top, scale] = [0, 1, 2].map(|at| place[at].as_f64().expect("the picture has a place"));
        let on_screen: Vec<_> = points.iter().map(|(x, y)| (left + x * scale, top + y * scale)).collect();
        self.drag(&on_screen);
    }

    /// Presses a key.
    pub fn key(&self, key: &str) {
        self.tab.press_key(key).expect("the key is known");
    }

    /// Presses a key with others held.
    pub fn key_with(&self, key: &str, held: &[ModifierKey]) {
        self.tab.press_key_with_modifiers(key, Some(held)).expect("the key is known");
    }

    /// Writes into a field, instead of what stands there.
    pub fn fill(&self, selector: &str, text: &str) {
        self.js(&format!(
            "(e => {{ e.value = {text:?}; for (const name of ['input', 'change']) \
             e.dispatchEvent(new Event(name, {{ bubbles: true }})); }})(document.querySelector({selector:?}))"
        ));
    }

    /// Drops a file on the page.
    pub fn drop_file(&self, selector: &str, name: &str, kind: &str, bytes: &[u8]) {
        let data = STANDARD.encode(bytes);
        self.js(&format!(
            "(() => {{ const data = new DataTransfer(); \
             const bytes = Uint8Array.from(atob({data:?}), letter => letter.charCodeAt(0)); \
             data.items.add(new File([bytes], {name:?}, {{ type: {kind:?} }})); \
             for (const type of ['dragenter', 'dragover', 'drop']) document.querySelector({selector:?})\
             .dispatchEvent(new DragEvent(type, {{ dataTransfer: data, bubbles: true, cancelable: true }})); }})()"
        ));
    }

    /// Clicks Download and gives the file's name and bytes.
    pub fn download(&self) -> (String, Vec<u8>) {
        // The same file again would have the same name.
        for name in self.downloads.names() {
            std::fs::remove_file(self.downloads.file(&name)).expect("a finished download");
        }
        self.click("#download");
        let begin = Instant::now();
        loop {
            let mut names = self.downloads.names();
            names.retain(|name| name.ends_with(".png"));
            if let Some(name) = names.pop() {
                let bytes = std::fs::read(self.downloads.file(&name)).expect("the download is readable");
                // The browser may still be writing it.
                if bytes.ends_with(b"IEND\xaeB`\x82") {
                    return (name, bytes);
                }
            }
            assert!(begin.elapsed() < PATIENCE, "the download never came: {:?}", self.downloads.names());
            thread::sleep(Duration::from_millis(40));
        }
    }

    /// Keeps what is seen in the folder that `SCREENSHOTS` names, if it names one.
    pub fn keep_sight(&self, name: &str) {
        let Some(folder) = env::var_os("SCREENSHOTS") else { return };
        let format = Page::CaptureScreenshotFormatOption::Png;
        let png = self.tab.capture_screenshot(format, None, None, true).expect("the page is seen");
        let picture = image::load_from_memory(&png).expect("it is a picture");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        picture.into_rgb8().save(root.join(folder).join(name)).expect("the folder can be written");
    }
}
