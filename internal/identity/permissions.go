package identity

import (
	"slices"

	v1 "github.com/murmuration/murmuration/proto/murmur/v1/murmurv1connect"
)

// access says who may call a procedure: everyone, certificate holders of some kinds, or people and tokens of at
// least a role. The zero access lets nobody in.
type access struct {
	public bool
	role   Role
	peers  []Kind
}

// allows reports whether the caller may.
func (a access) allows(c Caller) bool {
	if a.public {
		return true
	}
	if !c.Peer.IsZero() {
		return slices.Contains(a.peers, c.Peer.Kind)
	}
	return a.role != Nobody && c.Role >= a.role
}

// permissions is who may call what, for every procedure of the API. What is not listed is denied; a test walks
// all services, so a new procedure without a line here fails. Handlers may narrow further (a person who is no
// admin changes only their own password), never widen.
var permissions = map[string]access{
	v1.ReleaseServiceBeginUploadProcedure:    {role: Developer},
	v1.ReleaseServicePublishProcedure:        {role: Developer},
	v1.ReleaseServiceGetReleaseProcedure:     {role: Viewer},
	v1.ReleaseServiceListReleasesProcedure:   {role: Viewer},
	v1.ReleaseServicePinReleaseProcedure:     {role: ReleaseManager},
	v1.ReleaseServiceReportBuildProcedure:    {role: Developer},
	v1.ReleaseServiceAppendBuildLogProcedure: {role: Developer},
	v1.ReleaseServiceGetBuildProcedure:       {role: Viewer},
	v1.ReleaseServiceListBuildsProcedure:     {role: Viewer},
	v1.ReleaseServiceCancelBuildProcedure:    {role: Developer},
	v1.ReleaseServiceWatchBuildProcedure:     {role: Viewer},

	v1.ServiceServiceListServicesProcedure:  {role: Viewer},
	v1.ServiceServiceGetServiceProcedure:    {role: Viewer},
	v1.ServiceServiceLockServiceProcedure:   {role: ReleaseManager},
	v1.ServiceServiceUnlockServiceProcedure: {role: ReleaseManager},

	v1.RolloutServicePlanRolloutProcedure:     {role: Viewer},
	v1.RolloutServiceStartRolloutProcedure:    {role: ReleaseManager},
	v1.RolloutServiceGetRolloutProcedure:      {role: Viewer},
	v1.RolloutServiceListRolloutsProcedure:    {role: Viewer},
	v1.RolloutServiceWatchRolloutProcedure:    {role: Viewer},
	v1.RolloutServiceSteerRolloutProcedure:    {role: ReleaseManager},
	v1.RolloutServiceRollbackServiceProcedure: {role: ReleaseManager},
	v1.RolloutServiceStopProcedure:            {role: ReleaseManager},
	v1.RolloutServiceLiftStopProcedure:        {role: Ops},
	v1.RolloutServiceGetStopProcedure:         {role: Viewer},
	v1.RolloutServiceGetScriptsProcedure:      {role: Viewer},

	v1.FleetServiceListHostsProcedure:   {role: Viewer},
	v1.FleetServiceGetHostProcedure:     {role: Viewer},
	v1.FleetServiceUpdateHostProcedure:  {role: Ops},
	v1.FleetServiceRemoveHostProcedure:  {role: Ops},
	v1.FleetServiceImportHostsProcedure: {role: Ops},
	v1.FleetServiceWatchHostsProcedure:  {role: Viewer},

	v1.IdentityServiceLoginProcedure:            {public: true},
	v1.IdentityServiceLogoutProcedure:           {role: Viewer},
	v1.IdentityServiceWhoAmIProcedure:           {role: Viewer},
	v1.IdentityServicePutUserProcedure:          {role: Viewer}, // narrowed: others than oneself need admin
	v1.IdentityServiceListUsersProcedure:        {role: Admin},
	v1.IdentityServiceRemoveUserProcedure:       {role: Admin},
	v1.IdentityServiceCreateTokenProcedure:      {role: Viewer}, // narrowed: at most the caller's own role
	v1.IdentityServiceListTokensProcedure:       {role: Viewer}, // narrowed: one's own, all for admin
	v1.IdentityServiceRevokeTokenProcedure:      {role: Viewer}, // narrowed: one's own, all for ops
	v1.IdentityServiceCreateJoinTokenProcedure:  {role: Ops},
	v1.IdentityServiceJoinProcedure:             {public: true}, // the join token is the proof
	v1.IdentityServiceRenewCertificateProcedure: {peers: []Kind{KindHost}},
	v1.IdentityServiceAddBuilderProcedure:       {role: Admin},
	v1.IdentityServiceListBuildersProcedure:     {role: Viewer},
	v1.IdentityServiceRevokeBuilderProcedure:    {role: Ops},
	v1.IdentityServiceListAuditProcedure:        {role: Viewer},
	v1.IdentityServiceVerifyAuditProcedure:      {role: Viewer},

	v1.FlagServiceListFlagsProcedure:          {role: Viewer},
	v1.FlagServiceGetFlagProcedure:            {role: Viewer},
	v1.FlagServicePutFlagProcedure:            {role: Developer},
	v1.FlagServiceTurnFlagProcedure:           {role: Developer},
	v1.FlagServiceDeleteFlagProcedure:         {role: ReleaseManager},
	v1.FlagServiceKillFlagsProcedure:          {role: Developer}, // the way to safety is easier than the way back
	v1.FlagServiceRestoreFlagsProcedure:       {role: Ops},
	v1.FlagServiceListFlagVersionsProcedure:   {role: Viewer},
	v1.FlagServiceRestoreFlagVersionProcedure: {role: Developer},
	v1.FlagServiceListSegmentsProcedure:       {role: Viewer},
	v1.FlagServicePutSegmentProcedure:         {role: Developer},
	v1.FlagServiceDeleteSegmentProcedure:      {role: ReleaseManager},
	v1.FlagServiceEvaluateFlagProcedure:       {role: Viewer},
	v1.FlagServiceFlagUsageProcedure:          {role: Viewer},

	v1.SessionServiceAttachProcedure: {peers: []Kind{KindHost}},
	v1.LeaderServiceFollowProcedure:  {peers: []Kind{KindSeeder}},
}
