//! What nobody should have to remember: who may import whom, where `unsafe` may stand and how it is proven,
//! and that the pages at the top of the repository say what the code does. Every rule is a function from
//! text to complaints, and is shown to complain about text that breaks it.

mod files;
mod imports;
mod pages;
mod source;
mod unsafety;

/// Fails with all complaints at once.
#[track_caller]
fn assert_tidy(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Exactly these complaints, each told by a piece of it.
#[track_caller]
fn assert_complains(complaints: &[String], expected: &[&str]) {
    assert_eq!(complaints.len(), expected.len(), "{complaints:#?}");
    for (complaint, expected) in complaints.iter().zip(expected) {
        assert!(complaint.contains(expected), "{expected:?} is not in {complaint:?}");
    }
}
