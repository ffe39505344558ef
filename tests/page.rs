//! The page in a real browser, on the real server with the miniature: what a person does on it, and what comes of it.
//! Where there is no browser each test says so and passes.

use crate::support::{
    TestDir,
    browser::{self, Visit},
    server::{self, Server},
};
use ace_plus::{
    image::{self, RgbImage},
    provenance::Provenance,
};
use headless_chrome::browser::tab::ModifierKey::{Ctrl, Shift};
use serde_json::json;
use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

const DESK: (u32, u32) = (1200, 780);
const TURNS: &str = "document.querySelectorAll('.turn').length";
/// Whether the browser has stored a draft whose words are those of the test.
const STORED: &str = "new Promise((done, failed) => {
    const open = indexedDB.open('ace', 1);
    open.onerror = () => failed(open.error);
    open.onsuccess = () => {
        const drafts = open.result.transaction('drafts').objectStore('drafts').getAll();
        drafts.onsuccess = () => {
            open.result.close();
            done(drafts.result.some(draft => JSON.stringify(draft.words).includes('a blue ring')));
        };
    };
})";
/// Steps of an edit that takes long enough to be interrupted.
const LONG: &str = "300";
/// Steps of one that nobody waits for.
const ENDLESS: &str = "100000";

/// A server and the page on it; `None` where there is no browser.
fn visit(name: &str, size: (u32, u32)) -> Option<(TestDir, Server, Visit)> {
    let chrome = browser::find()?;
    let dir = TestDir::new(name);
    let server = Server::start(&dir, &[]);
    let page = Visit::open(chrome, name, &server.url, size);
    Some((dir, server, page))
}

/// States of all jobs, newest first.
fn states(server: &Server) -> Vec<String> {
    let all = server.get("/ace/v1/jobs").json();
    let jobs = all["jobs"].as_array().expect("a list");
    jobs.iter().map(|job| job["state"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Waits until the server's jobs, newest first, are in these states.
fn until_states(server: &Server, expected: &[&str]) {
    let begin = Instant::now();
    loop {
        let now = states(server);
        if now == expected {
            return;
        }
        assert!(begin.elapsed() < browser::PATIENCE, "the jobs are {now:?}, not {expected:?}");
        thread::sleep(Duration::from_millis(40));
    }
}

/// How many pixels are painted in a mask, as an expression.
fn painting(mask: u32) -> String {
    format!(
        "(c => {{ if (!c) return -1; const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; \
         let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; }})\
         (document.querySelector('#masks [data-mask=\"{mask}\"]'))"
    )
}

/// Pixels that are painted in a mask.
fn painted(page: &Visit, mask: u32) -> i64 {
    page.number(&painting(mask))
}

/// Waits until so many pixels are painted in a mask: another turn's mask comes a moment after the turn.
fn until_painted(page: &Visit, mask: u32, count: i64) {
    page.until(&format!("{} === {count}", painting(mask)), &format!("{count} pixels are painted in mask {mask}"));
}

fn pixels(bytes: &[u8]) -> RgbImage {
    image::load_from_memory(bytes).expect("a picture").into_rgb8()
}

fn example(name: &str) -> Vec<u8> {
    fs::read(server::example(name)).expect("it is shipped")
}

/// Waits until so many turns are there and nothing runs.
fn settled(page: &Visit, turns: u32) {
    page.until(
        &format!("{TURNS} === {turns} && document.getElementById('run').offsetParent"),
        &format!("{turns} turns"),
    );
}

fn running(page: &Visit) {
    page.until("document.getElementById('progress').value > 0", "steps are done");
}

#[test]
fn one_click_edits_the_example_and_the_download_says_how() {
    let Some((_dir, _server, page)) = visit("page-first", DESK) else { return };
    assert_eq!(page.js("document.getElementById('words-1').value"), "turn the red circle green");
    until_painted(&page, 1, 32 * 32);
    // Nothing comes from anywhere else, and nothing on it is refused by its own policy.
    let own = "performance.getEntriesByType('resource').every(entry => entry.name.startsWith(location.origin))";
    assert_eq!(page.js(own), json!(true));

    page.click("#try");
    settled(&page, 2);
    let (name, bytes) = page.download();
    let (before, after, mask) = (pixels(&example("image.png")), pixels(&bytes), pixels(&example("mask.png")));
    let mut changed = [0, 0];
    for (x, y, pixel) in after.enumerate_pixels() {
        changed[usize::from(mask.get_pixel(x, y).0[0] > 127)] += usize::from(pixel != before.get_pixel(x, y));
    }
    assert_eq!(changed[0], 0, "pixels outside the mask changed");
    assert!(changed[1] > 100, "{} pixels inside the mask changed", changed[1]);
    let green = after.get_pixel(49, 17).0;
    assert!(green[1] > green[0], "the circle is {green:?}");

    let made = Provenance::from_bytes(Path::new("download"), &bytes).expect("it says how it was made");
    assert_eq!(made.request.instruction.as_deref(), Some("turn the red circle green"));
    let seed = made.request.seed.expect("with its seed");
    assert_eq!(name, format!("ace-{seed}.png"));

    // In another browser, which knows nothing of it, the file brings its settings along.
    page.js("document.getElementById('forget').click()");
    page.click("#ask-ok");
    page.until(&format!("{TURNS} === 1 && !document.getElementById('welcome').hidden"), "all is forgotten");
    page.fill("#words-1", "something else");
    page.drop_file("#stage", "result.png", "image/png", &bytes);
    page.until_said("made by ace");
    assert_eq!(page.js("document.getElementById('words-1').value"), "turn the red circle green");
    assert_eq!(page.js("document.getElementById('seed').value"), seed.to_string());
    assert_eq!(page.js("document.getElementById('task').value"), "recolor");
    assert_eq!(page.download().1, bytes, "and it is still the same file");
}

#[test]
fn a_mask_is_painted_with_every_tool_and_a_reload_keeps_it() {
    let Some((_dir, _server, page)) = visit("page-paint", DESK) else { return };
    page.drop_file("#stage", "image.png", "image/png", &example("image.png"));
    page.until("document.getElementById('welcome').hidden", "a picture is open");
    until_painted(&page, 1, 0);

    page.key("r");
    page.paint(&[(10.5, 10.5), (15.5, 15.5), (19.5, 19.5)]);
    assert_eq!(painted(&page, 1), 100, "rectangle");
    page.key(".");
    assert_eq!(painted(&page, 1), 140, "grown by a disc, not by a square");
    page.key(",");
    assert_eq!(painted(&page, 1), 100, "shrunk again");
    page.key("i");
    assert_eq!(painted(&page, 1), 64 * 64 - 100, "inverted");
    page.key_with("z", &[Ctrl]);
    page.key_with("z", &[Ctrl]);
    assert_eq!(painted(&page, 1), 140, "two undone");
    page.key_with("Z", &[Ctrl, Shift]);
    assert_eq!(painted(&page, 1), 100, "one done again");
    page.key("e");
    page.paint(&[(15.5, 15.5), (16.5, 15.5)]);
    let less = painted(&page, 1);
    assert!((40..90).contains(&less), "erased to {less}");
    page.key("c");
    page.key("l");
    page.paint(&[(30.0, 10.0), (50.0, 10.0), (50.0, 30.0), (30.0, 30.0)]);
    let inside = painted(&page, 1);
    assert!((360..=420).contains(&inside), "a lasso around 400 pixels took {inside}");
    page.key("c");
    // The fill spreads over the orange circle and stops at its edge.
    page.key("g");
    page.paint(&[(48.5, 48.5)]);
    let circle = painted(&page, 1);
    assert!((450..700).contains(&circle), "the circle has {circle} pixels");
    page.key("c");
    // Without a pointer: arrows move the pen, Enter begins and ends.
    page.key("b");
    page.js("document.getElementById('stage').focus()");
    page.key("Enter");
    (0..6).for_each(|_| page.key("ArrowRight"));
    page.key("Enter");
    let by_keys = painted(&page, 1);
    assert!(by_keys > 50, "{by_keys}");
    page.key("]");
    page.paint(&[(10.0, 50.0), (20.0, 50.0)]);
    let both = painted(&page, 1);
    assert!(both > by_keys);

    // Panning and zooming move the view alone.
    page.key("+");
    page.key("+");
    assert_eq!(painted(&page, 1), both);
    page.key("0");

    page.fill("#words-1", "a blue ring");
    // What is said is stored a moment later, together with the mask.
    page.until(STORED, "the draft is stored");
    page.reload();
    until_painted(&page, 1, both);
    assert_eq!(page.js("document.getElementById('words-1').value"), "a blue ring");
    page.key_with("z", &[Ctrl]);
    // And the last stroke can still be undone.
    until_painted(&page, 1, by_keys);
}

#[test]
fn an_edit_is_cancelled_and_turns_are_undone_branched_and_replayed() {
    let Some((_dir, server, page)) = visit("page-turns", DESK) else { return };
    page.fill("#num_steps", ENDLESS);
    page.click("#try");
    running(&page);
    page.click("#cancel");
    page.until_said("Cancelled");
    settled(&page, 1);
    // On the server, too.
    until_states(&server, &["cancelled"]);
    // The mask is still there.
    until_painted(&page, 1, 32 * 32);

    page.fill("#num_steps", "4");
    page.key_with("R", &[Shift]);
    settled(&page, 2);
    let first = page.download().1;
    // A new turn begins without a mask.
    until_painted(&page, 1, 0);

    // Back to the turn before, where the mask still is, and a branch from there: other words, another picture.
    page.js("document.getElementById('stage').focus()");
    page.key("u");
    page.until("document.getElementById('looks').hidden", "the turn before is shown");
    until_painted(&page, 1, 32 * 32);
    page.fill("#words-1", "turn the red circle blue");
    page.click("#run");
    settled(&page, 3);
    let second = page.download().1;
    assert_ne!(pixels(&first), pixels(&second));
    let levels = "[...document.querySelectorAll('.turn')].map(turn => turn.ariaLevel ?? turn.getAttribute('aria-level')).sort().join()";
    assert_eq!(page.js(levels), "1,2,2", "two branches of one turn");

    // Each turn comes out the same again.
    page.js("document.getElementById('made').open = true");
    page.click("#replay");
    page.until_said("byte by byte");
    settled(&page, 3);

    // The same with another seed stands beside it.
    page.click("#again");
    settled(&page, 4);
    assert_ne!(page.download().1, second);

    // Two masks with words of their own.
    page.js("document.querySelector('[aria-level=\"1\"]').click()");
    page.until("document.getElementById('looks').hidden", "the first turn is shown");
    page.click("#add-mask");
    page.until("document.activeElement.id === 'words-2'", "its words can be said");
    page.key("Escape");
    page.key("r");
    page.paint(&[(34.5, 36.5), (50.5, 50.5), (61.5, 61.5)]);
    assert_eq!(painted(&page, 2), 28 * 26);
    page.click("#run");
    page.until_said("Mask 2 has no words");
    page.fill("#words-2", "turn the orange circle purple");
    page.key("Escape");
    page.keep_sight("page.png");
    page.click("#run");
    settled(&page, 5);
    let made = page.download().1;
    let made = Provenance::from_bytes(Path::new("download"), &made).expect("it says how it was made");
    let words: Vec<_> = made.request.regions.iter().map(|region| region.instruction.as_str()).collect();
    assert_eq!(words, ["turn the red circle blue", "turn the orange circle purple"]);
}

#[test]
fn what_cannot_be_done_is_one_line_and_a_hint() {
    let Some((_dir, _server, page)) = visit("page-wrong", DESK) else { return };
    page.drop_file("#stage", "notes.txt", "text/plain", b"no picture at all");
    page.until("!document.getElementById('notice').hidden", "the page says so");
    assert_eq!(page.text("#notice-text"), "“notes.txt” is not a picture that this browser can read.");
    assert_eq!(page.text("#notice-hint"), "PNG, JPEG and WebP are.");
    assert_eq!(page.js("document.getElementById('notice').getAttribute('role')"), "alert");
    assert_eq!(page.number(TURNS), 1, "and the example is still there");

    page.key("Escape");
    page.drop_file("#stage", "image.png", "image/png", &example("image.png"));
    page.until("document.getElementById('welcome').hidden", "a picture is open");
    until_painted(&page, 1, 0);
    page.click("#run");
    page.until("!document.getElementById('notice').hidden", "the page says what is missing");
    assert_eq!(page.text("#notice-text"), "Nothing is painted yet.");

    // What the server refuses is said in its own words.
    page.key("i");
    page.fill("#words-1", "turn the red circle green");
    page.fill("#num_steps", "0");
    page.click("#run");
    page.until("/step/.test(document.getElementById('notice-text').innerText)", "the server's refusal is shown");
    settled(&page, 1);
}

#[test]
fn a_server_that_is_killed_is_waited_for_and_finishes_the_same_edit() {
    let Some((dir, mut server, page)) = visit("page-killed", DESK) else { return };
    page.fill("#num_steps", LONG);
    page.click("#try");
    running(&page);
    server.kill();
    page.until_said("The server is away");
    assert_eq!(page.number(TURNS), 1);

    let again = Server::start_at(&dir, server.address(), &[]);
    page.until_said("The server is back");
    settled(&page, 2);
    // The edit was made once.
    until_states(&again, &["done"]);
    let before = pixels(&example("image.png"));
    assert_ne!(pixels(&page.download().1), before);

    // The page itself may go, too: a reload goes on with what runs.
    page.js("document.querySelector('[aria-level=\"1\"]').click()");
    page.until("document.getElementById('looks').hidden", "the first turn is shown");
    page.click("#run");
    running(&page);
    page.reload();
    settled(&page, 3);
    until_states(&again, &["done", "done"]);
}

#[test]
fn on_a_phone_nothing_is_wider_than_the_screen() {
    let Some((_dir, _server, page)) = visit("page-phone", (375, 812)) else { return };
    let wide = "[...document.querySelectorAll('header, #stage, #viewbar, #tools, #scroll, #footer, #turns-row')]\
                .filter(e => e.offsetParent && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.id).join()";
    assert_eq!(page.js(wide), "");
    assert_eq!(page.number("document.documentElement.scrollWidth"), 375);
    page.click("#try");
    settled(&page, 2);
    page.keep_sight("page-phone.png");
    assert_eq!(page.js(wide), "");
    // Everything that is pressed has a name for those who do not see it.
    let nameless = "[...document.querySelectorAll('button, input, select, textarea')].filter(e => e.checkVisibility() && \
                    !(e.ariaLabel || e.innerText?.trim() || e.labels?.length || e.title)).map(e => e.id || e.outerHTML).join()";
    assert_eq!(page.js(nameless), "");
}
