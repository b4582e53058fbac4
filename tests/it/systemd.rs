//! The units and lines of fstab under a systemd that runs: as process 1 of namespaces of its own, on a copy of this machine's files
//! that is thrown away, with the program installed as `make install` does it.
//!
//! Needs root, systemd, and a tree of cgroups that may be written. Not here: what a node or a mount does (everything else).

use crate::support;
use crate::support::Running;
use crate::support::run;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

/// For systemd to be up, and for a unit to be what it is to become.
const LIMIT: Duration = Duration::from_secs(60);

/// Puts itself into a group `$1` below its own, so that systemd has none but what is below that, then leaves for namespaces.
const LEAVE: &str = r#"
group=$(findmnt -no TARGET -t cgroup2 | head -n 1)$(sed -n 's/^0:://p' /proc/self/cgroup)/$1
mkdir "$group"
echo $$ >"$group/cgroup.procs"
echo "$group" >"$2.group"
exec unshare --pid --mount --uts --ipc --net --cgroup --fork --kill-child bash -euc "$3" boot "$2" "$4"
"#;

/// Makes the files below `$1`, with what `$2` holds on top of them, and becomes systemd. What belongs to the machine cannot be
/// written: `/sys`, and `/proc/sys`.
const BOOT: &str = r#"
ip link set lo up
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/up" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/up,workdir=$1/work" overlay "$1/root"
tar -C "$2" -c . | tar -C "$1/root" -x --keep-directory-symlink
cd "$1/root"
rm -rf etc/systemd/system etc/fstab etc/tsfs var/log/journal srv/store
mkdir -p etc/systemd/system etc/tsfs mnt/data mnt/line old
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty fuse; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
ln -s /proc/self/fd dev/fd
pivot_root . old
umount -l /old
exec env -i container=tests PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --show-status=no --unit=basic.target </dev/null >/dev/null 2>&1
"#;

/// A machine of its own, as far as systemd can tell. Dropped, all of it ends.
struct Machine {
    booted: Running,
    root: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Machine {
    fn boot() -> Machine {
        let systemd = Path::new("/lib/systemd/systemd");
        assert!(systemd.exists(), "this test needs systemd: see .ci/install-deps");
        let scratch = support::scratch();
        let (root, made) = (scratch.path().join("root"), scratch.path().join("made"));
        std::fs::create_dir(&root).unwrap();
        install(&made, "/usr/local");
        let group = format!("tsfs-test-{}", std::process::id());
        let mut command = Command::new("bash");
        command.args(["-euc", LEAVE, "leave", &group]).arg(&root).arg(BOOT).arg(&made);
        let booted = Running::start(command.stdin(Stdio::null()));
        let mut machine = Machine { booted, root, _scratch: scratch };
        support::wait_until(LIMIT, "systemd to be up", || {
            assert_eq!(machine.booted.0.try_wait().unwrap(), None, "systemd did not start");
            machine.try_within("systemctl is-active basic.target").is_some()
        });
        machine
    }

    /// What a line of shell says in there, if it succeeds.
    fn try_within(&self, line: &str) -> Option<String> {
        let output = self.command(line)?.stderr(Stdio::null()).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The same of what must succeed.
    ///
    /// # Panics
    /// If it does not, with what units have said.
    fn within(&self, line: &str) -> String {
        let output = self.command(line).expect("systemd is up").output().unwrap();
        if !output.status.success() {
            println!("{}", self.try_within("journalctl --no-pager -n 40").unwrap_or_default());
        }
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {}\n{said}\n{error}", output.status);
        said
    }

    fn command(&self, line: &str) -> Option<Command> {
        let outside = self.booted.0.id();
        let children = format!("/proc/{outside}/task/{outside}/children");
        let children = std::fs::read_to_string(children).ok()?;
        let first = children.split_whitespace().next()?;
        let mut command = Command::new("nsenter");
        command.args(["-t", first, "-m", "-u", "-i", "-n", "-p", "-C", "env", "-i"]);
        command.args(["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]);
        command.args(["timeout", "100", "bash", "-euo", "pipefail", "-c", line]);
        Some(command)
    }

    fn of(&self, unit: &str, property: &str) -> String {
        self.within(&format!("systemctl show -P {property} '{unit}'"))
    }

    /// kill -9, and it is there again.
    fn kill(&self, unit: &str) {
        let former = self.of(unit, "MainPID");
        self.within(&format!("kill -9 {former}"));
        support::wait_until(LIMIT, "a killed unit to be started again", || {
            // All at one moment.
            let is = self.within(&format!("systemctl show -p NRestarts,ActiveState '{unit}'"));
            is.contains("NRestarts=1") && is.contains("ActiveState=active")
        });
    }

    /// Stops it, and nothing is left of it.
    fn stop(&self, unit: &str) {
        let group = self.of(unit, "ControlGroup");
        self.within(&format!("systemctl stop '{unit}'"));
        let came = (self.of(unit, "Result"), self.of(unit, "ActiveState"));
        assert_eq!(came, ("success".to_owned(), "inactive".to_owned()), "{unit}");
        // Its guard ends by itself, where the unit leaves that to it.
        support::wait_until(LIMIT, "all processes of a unit to end", || {
            self.try_within(&format!("! grep -q . '/sys/fs/cgroup{group}/cgroup.procs'")).is_some()
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.booted.kill();
        let Ok(group) = std::fs::read_to_string(self.root.with_extension("group")) else { return };
        let remove =
            format!("find '{}' -depth -type d -exec rmdir {{}} + 2>/dev/null", group.trim());
        // As soon as all of its processes are gone. What stays does no harm.
        for _ in 0..100 {
            if Command::new("sh").args(["-c", &remove]).status().is_ok_and(|done| done.success()) {
                break;
            }
            support::pause(Duration::from_millis(20));
        }
    }
}

fn install(at: &Path, prefix: &str) {
    let mut make = Command::new("make");
    make.args(["--silent", "install"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    make.arg(format!("TSFS={}", env!("CARGO_BIN_EXE_tsfs"))).arg(format!("PREFIX={prefix}"));
    run(make.arg(format!("DESTDIR={}", at.display())));
}

#[test]
fn units_name_the_program_where_it_was_installed() {
    let scratch = support::scratch();
    install(scratch.path(), "/opt/tsfs");
    for unit in ["tsfs@", "tsfs-node@"] {
        let unit = scratch.path().join(format!("lib/systemd/system/{unit}.service"));
        let text = std::fs::read_to_string(unit).unwrap();
        assert!(text.contains("\nExecStart=/opt/tsfs/bin/tsfs "), "{text}");
    }
    assert!(scratch.path().join("opt/tsfs/bin/tsfs").exists());
}

#[test]
fn nodes_and_mounts_are_services() {
    let machine = Machine::boot();
    // A node is active when it serves, and not if it cannot.
    machine.within("echo STORE=/srv/nothing >/etc/tsfs/bad.node.env");
    assert_eq!(machine.try_within("systemctl start tsfs-node@bad"), None);
    machine.within("systemctl stop tsfs-node@bad");
    machine.within(
        "tsfs cluster init /srv/store --create --listen 127.0.0.1:7000 --address 127.0.0.1:7000
        echo STORE=/srv/store >/etc/tsfs/store.node.env
        systemctl start tsfs-node@store",
    );
    let status = machine.within("tsfs cluster status --json /srv/store");
    assert!(status.contains("\"leader\":1"), "{status}");
    machine.kill("tsfs-node@store.service");

    // A mount of it, which is there when the unit is.
    machine.within(
        "tsfs cluster client tests /srv/store --out /etc/tsfs/client.pem
        printf 'STORE=127.0.0.1:7000:/\nMNT=/mnt/data\nOPTIONS=noatime\n' >/etc/tsfs/data.env
        systemctl start tsfs@data
        findmnt -t fuse.tsfs -O noatime /mnt/data
        echo kept >/mnt/data/file; sync /mnt/data/file",
    );
    machine.kill("tsfs@data.service");
    assert_eq!(machine.within("cat /mnt/data/file"), "kept");
    machine.stop("tsfs@data.service");
    assert_eq!(machine.try_within("findmnt /mnt/data"), None);

    // A line of fstab becomes a unit behind the network.
    machine.within(
        "echo '127.0.0.1:7000:/ /mnt/line tsfs _netdev,nofail 0 0' >/etc/fstab
        systemctl daemon-reload
        systemctl start mnt-line.mount",
    );
    let after = machine.of("mnt-line.mount", "After");
    assert!(after.contains("network-online.target"), "{after}");
    assert_eq!(machine.within("cat /mnt/line/file"), "kept");
    machine.stop("mnt-line.mount");
    assert_eq!(machine.try_within("findmnt /mnt/line"), None);
    assert_eq!(
        machine.within("cat /proc/[0-9]*/comm | grep -cx tsfs"),
        "1",
        "the node alone is left"
    );

    machine.stop("tsfs-node@store.service");
    assert_eq!(machine.of("tsfs-node@store.service", "ExecMainStatus"), "0");
    let said = machine.within("journalctl --no-pager -u tsfs-node@store");
    assert!(said.contains("its store is whole"), "{said}");
    machine.within("tsfs fsck /srv/store");
}
