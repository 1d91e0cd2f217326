//! The rules of the source that a machine can check, one test for each.
//!
//! A module imports from lower layers only, so that each part can be read without those above it
//! and the rules at the bottom stay pure. Sizes are limited because the parts that are hard to read
//! are the longest ones. A name is unique and a term of the field, so that a search finds it.
//!
//! The checker reads tokens, not syntax: `source` blanks comments and literals and pairs brackets,
//! and each rule looks for the tokens that it needs. No rule has a list of exemptions.
//!
//! `cargo test --test architecture NAME` runs one rule.

use std::sync::LazyLock;

use source::Tree;

mod code;
mod imports;
mod prose;
mod sizes;
mod source;
mod types;
mod words;

static TREE: LazyLock<Tree> = LazyLock::new(Tree::read);

fn assert_none(failures: &[String]) {
    assert!(failures.is_empty(), "\n{}\n\n{} failures\n", failures.join("\n"), failures.len());
}

#[test]
fn imports_go_down_the_layers() {
    assert_none(&imports::layers(&TREE));
}

#[test]
fn imports_follow_the_order_inside_a_folder() {
    assert_none(&imports::order(&TREE));
}

#[test]
fn folders_do_not_import_each_other_in_a_circle() {
    assert_none(&imports::cycles(&TREE));
}

#[test]
fn files_are_short() {
    assert_none(&sizes::files(&TREE));
}

#[test]
fn functions_are_short() {
    assert_none(&sizes::functions(&TREE));
}

#[test]
fn folders_are_small_and_two_deep_at_most() {
    assert_none(&sizes::folders(&TREE));
}

#[test]
fn type_names_are_unique() {
    assert_none(&types::unique_names(&TREE));
}

#[test]
fn inherent_impls_are_in_the_folder_of_their_type() {
    assert_none(&types::inherent_impls(&TREE));
}

#[test]
fn file_names_have_no_banned_word() {
    assert_none(&words::file_names(&TREE));
}

#[test]
fn identifiers_have_no_banned_word() {
    assert_none(&words::identifiers(&TREE));
}

#[test]
fn sentences_start_with_their_subject() {
    assert_none(&prose::sentences(&TREE));
}

#[test]
fn parameters_are_not_tuples() {
    assert_none(&code::tuple_parameters(&TREE));
}

#[test]
fn errors_are_not_unwrapped() {
    assert_none(&code::unwrap(&TREE));
}

#[test]
fn only_one_file_reads_the_clock() {
    assert_none(&code::clock(&TREE));
}

#[test]
fn the_lowest_layer_is_pure() {
    assert_none(&code::purity(&TREE));
}

#[test]
fn the_top_level_is_closed() {
    assert_none(&code::top_level(&TREE));
}

/// Asserts that the failures are as many as expected and that each has its expected text.
fn assert_failures(failures: &[String], expected: &[&str]) {
    assert_eq!(failures.len(), expected.len(), "{failures:#?}");
    for (failure, expected) in failures.iter().zip(expected) {
        assert!(failure.contains(expected), "{failure} does not contain {expected}");
    }
}
