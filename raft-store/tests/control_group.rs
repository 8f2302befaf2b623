//! Members of a control group together: what survives which fault.

mod support;

use cluster_proto::NodeId;
use raft_store::{Leadership, MembershipError, Options, Positions, ProposeError, ReadError};
use support::{World, addresses, create_app, until};

fn usual(_: &mut Options) {}

/// So small that snapshots and purges happen within a test.
fn small_log(options: &mut Options) {
    options.log_keep = 32;
    options.snapshot_every = 100;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_survives_the_loss_of_the_leader() {
    let world = World::start(3, usual).await;
    for n in 0..20 {
        world.write(&format!("before-{n}")).await;
    }
    let (old, group) = world.leader(&[]).await;
    let before = group.linearize().await.expect("linearize");
    drop(group);
    world.kill(old).await;
    for n in 0..20 {
        world.write(&format!("after-{n}")).await;
    }
    world.start_node(old).await;
    let after = world.same_everywhere().await;
    assert!(after.index >= before.index + 20 && after.term > before.term);
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_members_restarted_at_once_have_the_same_state_as_before() {
    let world = World::start(3, usual).await;
    for n in 0..50 {
        world.write(&format!("app-{n}")).await;
    }
    let before = world.same_everywhere().await;
    world.stop_all().await;
    for id in [1, 2, 3] {
        world.start_node(NodeId(id)).await;
    }
    let after = world.same_everywhere().await;
    assert!(after.index > before.index, "the new leader's own entry");
    // Repeating a command that was applied answers the same, so it was not lost.
    assert_eq!(world.write("app-7").await, world.write("app-7").await);
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_alone_comes_back_with_everything() {
    let world = World::start(1, small_log).await;
    for n in 0..300 {
        world.write(&format!("app-{n}")).await;
    }
    let before = world.same_everywhere().await;
    world.stop(NodeId(1)).await;
    world.start_node(NodeId(1)).await;
    let (_, group) = world.leader(&[]).await;
    assert!(group.linearize().await.expect("linearize").index > before.index);
    drop(group);
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_too_far_behind_the_log_gets_a_snapshot_and_becomes_a_voter() {
    let world = World::start(3, small_log).await;
    for n in 0..400 {
        world.write(&format!("app-{n}")).await;
    }
    let (_, leader) = world.leader(&[]).await;
    let purged = until(leader.positions(), |at: &Positions| at.purged.is_some()).await;
    assert!(purged.purged <= purged.snapshot && purged.snapshot <= purged.applied, "{purged:?}");
    let learner = world.start_node(NodeId(4)).await;
    leader.add_learner(NodeId(4), addresses(NodeId(4))).await.expect("add");
    let goal = leader.linearize().await.expect("linearize").index;
    until(learner.positions(), |at: &Positions| at.applied >= Some(goal)).await;
    assert!(world.wires.snapshots_sent() > 0, "it came from the log");
    promote_when_caught_up(&world, NodeId(4)).await;
    world.write("with four").await;
    world.same_everywhere().await;
    // It restarts from what the snapshot left.
    drop((leader, learner));
    world.kill(NodeId(4)).await;
    world.start_node(NodeId(4)).await;
    world.same_everywhere().await;
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_replaced_while_writes_go_on() {
    let world = World::start(3, usual).await;
    let writes = async {
        for n in 0..200 {
            world.write(&format!("app-{n}")).await;
        }
    };
    let change = async {
        let (first, leader) = world.leader(&[]).await;
        world.start_node(NodeId(4)).await;
        leader.add_learner(NodeId(4), addresses(NodeId(4))).await.expect("add");
        promote_when_caught_up(&world, NodeId(4)).await;
        let (_, leader) = world.leader(&[]).await;
        // It hands over first; the next leader removes it.
        assert_eq!(leader.remove(first).await, Err(MembershipError::NotLeader { leader: None }));
        let (_, leader) = world.leader(&[first]).await;
        leader.remove(first).await.expect("remove");
        (first, leader)
    };
    let ((), (removed, leader)) = tokio::join!(writes, change);
    let members: Vec<_> =
        leader.members().into_iter().filter(|member| member.voter).map(|member| member.id).collect();
    assert_eq!(members.len(), 3);
    assert!(!members.contains(&removed) && members.contains(&NodeId(4)));
    drop(leader);
    world.kill(removed).await;
    world.write("without it").await;
    world.same_everywhere().await;
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_hands_over_first() {
    let world = World::start(3, usual).await;
    world.write("app").await;
    let (old, group) = world.leader(&[]).await;
    let term = group.leadership().borrow().term;
    drop(group);
    world.stop(old).await;
    // At once, without anybody waiting for an election timeout: it is already so.
    let (_, leader) = world.leader(&[]).await;
    assert_eq!(leader.leadership().borrow().term, term + 1);
    drop(leader);
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_goes_where_it_is_sent() {
    let world = World::start(3, usual).await;
    world.write("app").await;
    let (old, leader) = world.leader(&[]).await;
    let target = world.ids().into_iter().find(|id| *id != old).expect("another");
    leader.transfer_leader(Some(target)).await.expect("transfer");
    support::leads(&world.group(target)).await;
    drop(leader);
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_says_who_leads_and_does_nothing() {
    let world = World::start(3, usual).await;
    world.write("app").await;
    let (leader, group) = world.leader(&[]).await;
    let follower = world.group(world.ids().into_iter().find(|id| *id != leader).expect("another"));
    until(follower.leadership(), |now: &Leadership| now.leader == Some(leader)).await;
    let before = group.linearize().await.expect("linearize");
    let hint = Some(leader);
    assert_eq!(follower.propose(create_app("x")).await, Err(ProposeError::NotLeader { leader: hint }));
    assert_eq!(follower.linearize().await, Err(ReadError::NotLeader { leader: hint }));
    assert_eq!(follower.promote(NodeId(1)).await, Err(MembershipError::NotLeader { leader: hint }));
    assert_eq!(group.linearize().await.expect("linearize").digest, before.digest);
    drop((group, follower));
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_cut_off_promises_nothing_and_joins_again() {
    let world = World::start(3, usual).await;
    world.write("app").await;
    let (old, group) = world.leader(&[]).await;
    world.wires.cut(old, true);
    let refused = group.propose(create_app("alone")).await;
    assert!(matches!(refused, Err(ProposeError::Unknown | ProposeError::NotLeader { .. })), "{refused:?}");
    assert!(group.linearize().await.is_err());
    let (_, new) = world.leader(&[old]).await;
    new.propose(create_app("together")).await.expect("the majority goes on");
    world.wires.cut(old, false);
    until(group.leadership(), |now: &Leadership| !now.is_leader && now.leader.is_some()).await;
    drop((group, new));
    world.same_everywhere().await;
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_at_once_all_get_their_own_answer() {
    let world = World::start(3, usual).await;
    let (_, leader) = world.leader(&[]).await;
    let calls: Vec<_> = (0..500)
        .map(|n| {
            let leader = leader.clone();
            tokio::spawn(
                async move { leader.propose(create_app(&format!("app-{n}"))).await.expect("applied") },
            )
        })
        .collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(format!("{:?}", call.await.expect("join")));
    }
    answers.sort();
    answers.dedup();
    assert_eq!(answers.len(), 500);
    let entries = leader.positions().borrow().last_log.expect("a log");
    assert!(entries < 300, "500 commands took {entries} entries: they were not batched");
    drop(leader);
    world.same_everywhere().await;
    world.stop_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_pushes_are_refused_on_a_full_disk_and_everything_else_goes_on() {
    let world = World::start(1, |options| options.disk_reserve_bytes = u64::MAX).await;
    world.write("app").await;
    let (_, leader) = world.leader(&[]).await;
    assert_eq!(leader.propose(support::accept_push()).await, Err(ProposeError::DiskFull));
    world.write("another app").await;
    drop(leader);
    world.stop_all().await;
}

async fn promote_when_caught_up(world: &World, id: NodeId) {
    loop {
        let (_, leader) = world.leader(&[]).await;
        match leader.promote(id).await {
            Ok(()) => return,
            Err(
                MembershipError::Behind { .. }
                | MembershipError::NotLeader { .. }
                | MembershipError::InProgress,
            ) => {
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("promote: {error}"),
        }
    }
}
