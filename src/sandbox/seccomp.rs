#![forbid(unsafe_code)]
//! Which system calls are refused (seccomp(2)). What a daemon needs changes with its C library and with the
//! programs that inherit the filter, so this names what none of them has business with: other processes, mounts,
//! namespaces, modules, keys, clocks, and the kernel's parts that were broken most often. The kernel remembers
//! which calls pass whatever their arguments, so for those the filter costs next to nothing.

use std::collections::BTreeMap;
use std::io;

use nix::libc;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

/// x32 calls have these numbers and this bit (arch/x86/entry/syscalls); the architecture is the same.
const X32: i64 = 0x4000_0000;

/// Refused with EPERM.
const REFUSED: &[libc::c_long] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Mounts, roots and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    // Files by handle, past every path.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_mknodat,
    libc::SYS_quotactl,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_syslog,
    libc::SYS_personality,
    libc::SYS_acct,
    libc::SYS_vhangup,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[libc::c_long] = &[
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_mknod,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[libc::c_long] = &[];

/// Families of sockets that there are; netlink is the C library's, to learn of interfaces.
const FAMILIES: &[libc::c_int] = &[
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

/// New namespaces by clone(2).
const NAMESPACES: &[libc::c_int] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Puts the filters on, for all threads and all that is run, for good. Answers how many calls are refused.
pub(super) fn enforce(no_connections: bool) -> io::Result<usize> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let rules = rules(no_connections).map_err(io::Error::other)?;
    // x32's numbers name the same calls once more.
    let count = rules.range(..X32).count();
    let filter = |rules: Rules, errno: libc::c_int| -> io::Result<()> {
        let refuse = SeccompAction::Errno(errno.unsigned_abs());
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch);
        let program: Result<BpfProgram, BackendError> = filter.and_then(TryInto::try_into);
        let program = program.map_err(io::Error::other)?;
        apply_filter_all_threads(&program).map_err(io::Error::other)
    };
    filter(rules, libc::EPERM)?;
    // Its flags lie in memory, where no filter looks; "not implemented" makes the C library take clone(2).
    let unreadable = Rules::from([(libc::SYS_clone3, Vec::new())]);
    filter(unreadable, libc::ENOSYS)?;
    Ok(count)
}

fn rules(no_connections: bool) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    for call in REFUSED.iter().chain(REFUSED_HERE) {
        rules.insert(*call, Vec::new());
    }
    let foreign = FAMILIES
        .iter()
        .map(|family| argument(0, SeccompCmpOp::Ne, *family));
    let foreign = foreign.collect::<Result<Vec<_>, _>>()?;
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(foreign)?]);
    let spaces = NAMESPACES.iter().map(|flag| has_flag(0, *flag));
    rules.insert(libc::SYS_clone, spaces.collect::<Result<_, _>>()?);
    if no_connections {
        rules.insert(libc::SYS_connect, Vec::new());
        // TCP Fast Open connects without connect(2).
        for (call, flags) in [
            (libc::SYS_sendto, 3),
            (libc::SYS_sendmsg, 2),
            (libc::SYS_sendmmsg, 3),
        ] {
            rules.insert(call, vec![has_flag(flags, libc::MSG_FASTOPEN)?]);
        }
    }
    #[cfg(target_arch = "x86_64")]
    {
        let x32 = rules.keys().map(|call| (call | X32, Vec::new()));
        let x32: Vec<_> = x32.collect();
        rules.extend(x32);
    }
    Ok(rules)
}

fn has_flag(index: u8, flag: libc::c_int) -> Result<SeccompRule, BackendError> {
    let mask = u64::from(flag.cast_unsigned());
    SeccompRule::new(vec![argument(index, SeccompCmpOp::MaskedEq(mask), flag)?])
}

fn argument(
    index: u8,
    compare: SeccompCmpOp,
    value: libc::c_int,
) -> Result<SeccompCondition, BackendError> {
    let value = u64::from(value.cast_unsigned());
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, compare, value)
}
