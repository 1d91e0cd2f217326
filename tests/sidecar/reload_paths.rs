//! Every way in which a policy comes to a host: an editor, git, a ConfigMap, git-sync, a folder
//! made anew. From the change of the files to the policy in force it takes half a second at most.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::fixtures::{api, chat, in_force, median, pace, policy, reload, route};
use crate::support::sidecar::Builder;
use crate::support::{Behaviour, Call, Origin, Sidecar};

const BAR: Duration = Duration::from_millis(500);

fn yaml(a: &Origin, version: usize) -> String {
    let more = format!("headers: {{ set: {{ x-version: \"{version}\" }} }}");
    policy(&[("a", &a.url(), &more)], &route("providers: [a]"))
}

fn new_sidecar() -> (Origin, Builder) {
    (Origin::start(Behaviour::Chat), Sidecar::builder())
}

/// Changes the policy five times in this way, and judges the time that it takes.
#[track_caller]
fn judge(a: &Origin, sidecar: &Sidecar, change: impl Fn(usize)) {
    let mut times = Vec::new();
    for version in 2..7 {
        times.push(reload(sidecar, || change(version)));
        assert_eq!(sidecar.send(&chat()).status, 200);
        assert_eq!(a.last().headers.get("x-version"), Some(&*version.to_string()));
    }
    let (shown, middle) = (format!("{times:?}"), median(times));
    assert!(middle <= BAR, "{shown}");
}

#[test]
fn an_editor_that_writes_in_place() {
    let (a, builder) = new_sidecar();
    let sidecar = builder.policy("policy", &yaml(&a, 1)).start();
    let file = sidecar.policies().join("policy.yaml");
    judge(&a, &sidecar, |version| fs::write(&file, yaml(&a, version)).expect("a write"));
}

#[test]
fn an_editor_that_renames_over() {
    let (a, builder) = new_sidecar();
    let sidecar = builder.policy("policy", &yaml(&a, 1)).start();
    judge(&a, &sidecar, |version| sidecar.write_policy("policy", &yaml(&a, version)));
}

#[test]
fn a_checkout_that_removes_one_file_and_brings_another_in_a_folder() {
    let (a, builder) = new_sidecar();
    let sidecar = builder.policy("v1", &yaml(&a, 1)).start();
    let folder = sidecar.policies();
    judge(&a, &sidecar, |version| {
        let old =
            if version == 2 { "v1.yaml".to_owned() } else { format!("sub/v{}.yaml", version - 1) };
        fs::remove_file(folder.join(old)).expect("the old file is there");
        fs::create_dir_all(folder.join("sub")).expect("a folder");
        fs::write(folder.join(format!("sub/v{version}.yaml")), yaml(&a, version)).expect("a write");
    });
}

/// A volume as the kubelet makes it: `policy.yaml -> ..data/policy.yaml`, `..data -> ..VERSION`.
fn map_version(folder: &Path, version: usize, yaml: &str) {
    let name = format!("..2024_{version}");
    fs::create_dir(folder.join(&name)).expect("a folder for the version");
    fs::write(folder.join(&name).join("policy.yaml"), yaml).expect("a write");
    symlink(&name, folder.join("..data_tmp")).expect("a link");
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("the swap");
    let old = folder.join(format!("..2024_{}", version - 1));
    let _ = fs::remove_dir_all(old);
}

#[test]
fn a_config_map_that_swaps_its_data() {
    let (a, builder) = new_sidecar();
    let folder = builder.policies();
    map_version(&folder, 1, &yaml(&a, 1));
    symlink("..data/policy.yaml", folder.join("policy.yaml")).expect("a link");
    let sidecar = builder.start();
    judge(&a, &sidecar, |version| map_version(&folder, version, &yaml(&a, version)));
}

/// As git-sync does: a worktree for each version, and one link that is swapped.
fn worktree(link: &Path, version: usize, yaml: &str) {
    let folder = link.parent().expect("the link is in a folder");
    let name = format!(".worktrees/{version}");
    fs::create_dir_all(folder.join(&name)).expect("a worktree");
    fs::write(folder.join(&name).join("policy.yaml"), yaml).expect("a write");
    symlink(&name, folder.join("link.tmp")).expect("a link");
    fs::rename(folder.join("link.tmp"), link).expect("the swap");
    let _ = fs::remove_dir_all(folder.join(format!(".worktrees/{}", version - 1)));
}

#[test]
fn a_git_sync_that_swaps_its_worktree() {
    let (a, builder) = new_sidecar();
    let link = builder.policies();
    fs::remove_dir(&link).expect("the folder is empty");
    worktree(&link, 1, &yaml(&a, 1));
    let sidecar = builder.start();
    judge(&a, &sidecar, |version| worktree(&link, version, &yaml(&a, version)));
}

#[test]
fn a_folder_that_is_deleted_and_made_again() {
    let (a, builder) = new_sidecar();
    let sidecar = builder.policy("policy", &yaml(&a, 1)).start();
    let folder = sidecar.policies();
    let mut times = Vec::new();
    for version in 2..5 {
        let before = in_force(&sidecar);
        fs::remove_dir_all(&folder).expect("the folder can be deleted");
        sidecar.wait_until(|sidecar| {
            api(sidecar, "/api/policies")["last_load"]["result"] == "rejected"
        });
        assert_eq!(in_force(&sidecar), before, "the last good one stays in force");
        assert_eq!(sidecar.send(&chat()).status, 200);
        times.push(reload(&sidecar, || {
            fs::create_dir(&folder).expect("the folder can be made again");
            fs::write(folder.join("policy.yaml"), yaml(&a, version)).expect("a write");
        }));
        assert_eq!(sidecar.send(&chat()).status, 200);
        assert_eq!(a.last().headers.get("x-version"), Some(&*version.to_string()));
    }
    let (shown, middle) = (format!("{times:?}"), median(times));
    assert!(middle <= BAR, "{shown}");
}

#[test]
fn a_folder_that_is_replaced_at_once() {
    let (a, builder) = new_sidecar();
    let sidecar = builder.policy("policy", &yaml(&a, 1)).start();
    let (folder, other) = (sidecar.policies(), sidecar.folder().join("other"));
    judge(&a, &sidecar, |version| {
        fs::create_dir(&other).expect("a folder beside");
        fs::write(other.join("policy.yaml"), yaml(&a, version)).expect("a write");
        fs::remove_dir_all(&folder).expect("the folder can be deleted");
        fs::rename(&other, &folder).expect("the other one takes its place");
    });
}

#[test]
fn a_secrets_file_that_is_rotated() {
    let (a, builder) = new_sidecar();
    let file = builder.policies().with_file_name("key");
    fs::write(&file, "1").expect("a write");
    let auth = format!(
        "auth: {{ header: {{ name: x-version, value: \"${{file:{}}}\" }} }}",
        file.display()
    );
    let yaml = policy(&[("a", &a.url(), &auth)], &route("providers: [a]"));
    let sidecar = builder.policy("policy", &yaml).start();
    let seen = |sidecar: &Sidecar| {
        assert_eq!(sidecar.send(&chat()).status, 200);
        a.last().headers.get("x-version").map(str::to_owned)
    };
    let mut times = Vec::new();
    for version in 2..5 {
        let (key, start) = (version.to_string(), Instant::now());
        fs::write(&file, &key).expect("a write");
        sidecar.wait_until(|sidecar| seen(sidecar).is_some_and(|seen| seen == key));
        times.push(start.elapsed());
    }
    let (shown, middle) = (format!("{times:?}"), median(times));
    assert!(middle <= BAR, "{shown}");
}

#[test]
fn a_file_system_that_tells_nothing() {
    let (a, builder) = new_sidecar();
    let builder = builder.policy("policy", &yaml(&a, 1)).env("OUTRIGGER_WATCH", "poll");
    let sidecar = builder.env("OUTRIGGER_POLL", "100ms").start();
    judge(&a, &sidecar, |version| sidecar.write_policy("policy", &yaml(&a, version)));
}

#[test]
fn a_file_written_in_two_halves_is_seen_whole() {
    let (a, builder) = new_sidecar();
    let with_two = |version: usize| {
        let more = format!("headers: {{ set: {{ x-version: \"{version}\" }} }}");
        // Valid without its last line, and without everything: the halves of a write.
        policy(
            &[("a", &a.url(), &more)],
            "routes:\n  - { name: one, match: { path: /one }, providers: [a] }\n\
                                           \x20 - { name: two, match: { path: /two }, providers: [a] }\n",
        )
    };
    let sidecar = builder.policy("policy", &with_two(1)).start();
    let file = sidecar.policies().join("policy.yaml");
    for version in 2..7 {
        let text = with_two(version);
        let half = text.find("  - { name: two").expect("the last line");
        let before = in_force(&sidecar);
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut file = File::create(&file).expect("the file can be opened");
                for piece in [&text.as_bytes()[..half], &text.as_bytes()[half..]] {
                    file.write_all(piece).expect("a write");
                    pace(Instant::now() + Duration::from_millis(20));
                }
            });
            sidecar.wait_until(|sidecar| {
                assert_eq!(
                    sidecar.send(&Call::get("/two")).status,
                    200,
                    "half a policy is in force"
                );
                in_force(sidecar) != before
            });
            writer.join().expect("the writer ends well");
        });
        assert_eq!(sidecar.send(&Call::get("/two")).status, 200, "half a policy is in force");
        assert_eq!(a.last().headers.get("x-version"), Some(&*version.to_string()));
    }
    let loads = |result: &str| {
        sidecar.metric(&format!("outrigger_policy_reloads_total{{result=\"{result}\"}}"))
    };
    assert_eq!(loads("rejected").unwrap_or(0.0), 0.0);
}
