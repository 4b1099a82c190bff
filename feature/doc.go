// Package feature is the truth about darkmode flags: what a flag is, when it is valid, and which variant a
// caller gets.
//
// # Evaluation
//
// [Set.Evaluate] is a pure function of the compiled set, the caller's context and the time. The order is:
//
//  1. Killed: the off variant, reason STATIC. Nothing else is looked at. Never DISABLED: that tells OpenFeature
//     SDKs to use the code's default, which can leave a killed feature on.
//  2. An override for the caller's unit.
//  3. A prerequisite that does not hold: the off variant.
//  4. The first rule whose clauses all match: its variant, or for the units outside the rule's own dial the off
//     variant. Later rules are not looked at.
//  5. The flag's dial at this time (its schedule is data, so every node computes the same dial): the on
//     variant within it, the off variant outside.
//
// A unit is needed only where something hashes or an override could apply; a flag at 0 or 10000 answers a
// caller without a targeting key.
//
// # Types
//
// A boolean flag has boolean variants, and so on; a mode flag is a string flag whose variants are normal,
// read-only and static. Numbers keep whether they were written as integers. Values are JSON and are served
// exactly as they were written.
//
// # Compilation
//
// [Compile] turns definitions into a [Set]: immutable, safe for concurrent use, swapped as a whole. A flag that
// does not compile is reported and left out of the set; [Set.With] applies a change to some flags and keeps
// the last good form of one whose new definition does not compile.
//
// The package is pure: no I/O, no clock. Evaluating a dial flag allocates nothing.
package feature
