//! An edit inside a browser.
