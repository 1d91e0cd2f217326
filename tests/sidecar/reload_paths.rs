//! Ways in which policy files change: an editor, git, a ConfigMap, git-sync, a new folder. The new
//! policy is active at most half a second after the change.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::fixtures::{chat, last_load, median, policy, policy_hash, reload, route, sleep_until};
use crate::support::sidecar::Builder;
use crate::support::{Behaviour, Call, Origin, Sidecar};

const LIMIT: Duration = Duration::from_millis(500);

fn yaml(a: &Origin, version: usize) -> String {
    let more = format!("headers: {{ set: {{ x-version: \"{version}\" }} }}");
    policy(&[("a", &a.url(), &more)], &route("providers: [a]"))
}

fn new_sidecar() -> (Origin, Builder) {
    (Origin::start(Behaviour::Chat), Sidecar::builder())
}

/// Changes the policy five times and checks the median time until it is active.
#[track_caller]
fn check_reload_time(a: &Origin, sidecar: &Sidecar, change: impl Fn(usize)) {
    let mut times = Vec::new();
    for version in 2..7 {
        times.push(reload(sidecar, || change(version)));
        assert_eq!(sidecar.send(&chat()).status, 200);
        assert_eq!(a.last().headers.get("x-version"), Some(&*version.to_string()));
    }
    let (shown, median_time) = (format!("{times:?}"), median(times));
    assert!(median_time <= LIMIT, "{shown}");
}

#[test]
fn a_file_written_in_place() {
    let (a, builder) = new_sidecar();
    let sidecar = builder.policy("policy", &yaml(&a, 1)).start();
    let file = sidecar.policies().join("policy.yaml");
    check_reload_time(&a, &sidecar, |version| {
        fs::write(&file, yaml(&a, version)).expect("a write")
    });
}

#[test]
fn a_file_replaced_by_a_rename() {
    let (a, builder) = new_sidecar();
    let sidecar = builder.policy("policy", &yaml(&a, 1)).start();
    check_reload_time(&a, &sidecar, |version| sidecar.write_policy("policy", &yaml(&a, version)));
}

#[test]
fn a_checkout_that_removes_a_file_and_adds_one_in_a_folder() {
    let (a, builder) = new_sidecar();
    let sidecar = builder.policy("v1", &yaml(&a, 1)).start();
    let folder = sidecar.policies();
    check_reload_time(&a, &sidecar, |version| {
        let old =
            if version == 2 { "v1.yaml".to_owned() } else { format!("sub/v{}.yaml", version - 1) };
        fs::remove_file(folder.join(old)).expect("the old file is there");
        fs::create_dir_all(folder.join("sub")).expect("a folder");
        fs::write(folder.join(format!("sub/v{version}.yaml")), yaml(&a, version)).expect("a write");
    });
}

/// Updates a volume like the kubelet: `policy.yaml -> ..data/policy.yaml`, `..data -> ..VERSION`.
fn write_config_map_version(folder: &Path, version: usize, yaml: &str) {
    let name = format!("..2024_{version}");
    fs::create_dir(folder.join(&name)).expect("a folder for the version");
    fs::write(folder.join(&name).join("policy.yaml"), yaml).expect("a write");
    symlink(&name, folder.join("..data_tmp")).expect("a link");
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("the swap");
    let old = folder.join(format!("..2024_{}", version - 1));
    let _ = fs::remove_dir_all(old);
}

#[test]
fn a_config_map_update() {
    let (a, builder) = new_sidecar();
    let folder = builder.policies();
    write_config_map_version(&folder, 1, &yaml(&a, 1));
    symlink("..data/policy.yaml", folder.join("policy.yaml")).expect("a link");
    let sidecar = builder.start();
    check_reload_time(&a, &sidecar, |version| {
        write_config_map_version(&folder, version, &yaml(&a, version))
    });
}

/// Updates a folder like git-sync: a worktree for each version and one link that is swapped.
fn write_worktree(link: &Path, version: usize, yaml: &str) {
    let folder = link.parent().expect("the link is in a folder");
    let name = format!(".worktrees/{version}");
    fs::create_dir_all(folder.join(&name)).expect("a worktree");
    fs::write(folder.join(&name).join("policy.yaml"), yaml).expect("a write");
    symlink(&name, folder.join("link.tmp")).expect("a link");
    fs::rename(folder.join("link.tmp"), link).expect("the swap");
    let _ = fs::remove_dir_all(folder.join(format!(".worktrees/{}", version - 1)));
}

#[test]
fn a_git_sync_update() {
    let (a, builder) = new_sidecar();
    let link = builder.policies();
    fs::remove_dir(&link).expect("the folder is empty");
    write_worktree(&link, 1, &yaml(&a, 1));
    let sidecar = builder.start();
    check_reload_time(&a, &sidecar, |version| write_worktree(&link, version, &yaml(&a, version)));
}

#[test]
fn a_folder_that_is_deleted_and_created_again() {
    let (a, builder) = new_sidecar();
    let sidecar = builder.policy("policy", &yaml(&a, 1)).start();
    let folder = sidecar.policies();
    let mut times = Vec::new();
    for version in 2..5 {
        let before = policy_hash(&sidecar);
        fs::remove_dir_all(&folder).expect("the folder can be deleted");
        sidecar.wait_until(|sidecar| last_load(sidecar)["result"] == "rejected");
        assert_eq!(policy_hash(&sidecar), before, "the last valid policy is no longer active");
        assert_eq!(sidecar.send(&chat()).status, 200);
        times.push(reload(&sidecar, || {
            fs::create_dir(&folder).expect("the folder can be created");
            fs::write(folder.join("policy.yaml"), yaml(&a, version)).expect("a write");
        }));
        assert_eq!(sidecar.send(&chat()).status, 200);
        assert_eq!(a.last().headers.get("x-version"), Some(&*version.to_string()));
    }
    let (shown, median_time) = (format!("{times:?}"), median(times));
    assert!(median_time <= LIMIT, "{shown}");
}

#[test]
fn a_folder_that_is_replaced_by_a_rename() {
    let (a, builder) = new_sidecar();
    let sidecar = builder.policy("policy", &yaml(&a, 1)).start();
    let (folder, replacement) = (sidecar.policies(), sidecar.folder().join("other"));
    check_reload_time(&a, &sidecar, |version| {
        fs::create_dir(&replacement).expect("a new folder");
        fs::write(replacement.join("policy.yaml"), yaml(&a, version)).expect("a write");
        fs::remove_dir_all(&folder).expect("the folder can be deleted");
        fs::rename(&replacement, &folder).expect("a rename");
    });
}

#[test]
fn a_rotated_secret_file() {
    let (a, builder) = new_sidecar();
    let file = builder.policies().with_file_name("key");
    fs::write(&file, "1").expect("a write");
    let auth = format!(
        "auth: {{ header: {{ name: x-version, value: \"${{file:{}}}\" }} }}",
        file.display()
    );
    let yaml = policy(&[("a", &a.url(), &auth)], &route("providers: [a]"));
    let sidecar = builder.policy("policy", &yaml).start();
    let received = |sidecar: &Sidecar| {
        assert_eq!(sidecar.send(&chat()).status, 200);
        a.last().headers.get("x-version").map(str::to_owned)
    };
    let mut times = Vec::new();
    for version in 2..5 {
        let (key, start) = (version.to_string(), Instant::now());
        fs::write(&file, &key).expect("a write");
        sidecar.wait_until(|sidecar| received(sidecar).is_some_and(|received| received == key));
        times.push(start.elapsed());
    }
    let (shown, median_time) = (format!("{times:?}"), median(times));
    assert!(median_time <= LIMIT, "{shown}");
}

#[test]
fn polling_detects_changes_without_file_events() {
    let (a, builder) = new_sidecar();
    let builder = builder.policy("policy", &yaml(&a, 1)).env("OUTRIGGER_WATCH", "poll");
    let sidecar = builder.env("OUTRIGGER_POLL", "100ms").start();
    check_reload_time(&a, &sidecar, |version| sidecar.write_policy("policy", &yaml(&a, version)));
}

#[test]
fn a_file_written_in_two_parts_is_loaded_only_when_complete() {
    let (a, builder) = new_sidecar();
    let policy_with_two_routes = |version: usize| {
        let more = format!("headers: {{ set: {{ x-version: \"{version}\" }} }}");
        // The first part of the file is a valid policy too.
        policy(
            &[("a", &a.url(), &more)],
            "routes:\n  - { name: one, match: { path: /one }, providers: [a] }\n\
                                           \x20 - { name: two, match: { path: /two }, providers: [a] }\n",
        )
    };
    let sidecar = builder.policy("policy", &policy_with_two_routes(1)).start();
    let file = sidecar.policies().join("policy.yaml");
    for version in 2..7 {
        let text = policy_with_two_routes(version);
        let half = text.find("  - { name: two").expect("the last line");
        let before = policy_hash(&sidecar);
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut file = File::create(&file).expect("the file can be opened");
                for piece in [&text.as_bytes()[..half], &text.as_bytes()[half..]] {
                    file.write_all(piece).expect("a write");
                    sleep_until(Instant::now() + Duration::from_millis(20));
                }
            });
            sidecar.wait_until(|sidecar| {
                assert_eq!(
                    sidecar.send(&Call::get("/two")).status,
                    200,
                    "an incomplete policy became active"
                );
                policy_hash(sidecar) != before
            });
            writer.join().expect("the writer does not panic");
        });
        assert_eq!(
            sidecar.send(&Call::get("/two")).status,
            200,
            "an incomplete policy became active"
        );
        assert_eq!(a.last().headers.get("x-version"), Some(&*version.to_string()));
    }
    let loads = |result: &str| {
        sidecar.metric(&format!("outrigger_policy_reloads_total{{result=\"{result}\"}}"))
    };
    assert_eq!(loads("rejected").unwrap_or(0.0), 0.0);
}
