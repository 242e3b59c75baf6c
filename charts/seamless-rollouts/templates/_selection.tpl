{{/*
Which workloads the API server sends, in CEL. One rule for all that follows: only has(), in, &&, ||
and !, with no optional fields (a.?b). A Kubernetes 1.28 API server compiles new expressions for
1.27 as well, which does not know those. An expression that fails counts as "do not call" under
failurePolicy Ignore and refuses the request under Fail, hence a has() in front of every field that
may be absent.
*/}}

{{/* Whether a metadata object, an expression, says `inject: WORD` in a label or an annotation. */}}
{{- define "seamless-rollouts.says" -}}
{{- $key := "'seamless-rollouts.dev/inject'" -}}
(has({{ .metadata }}.labels) && {{ $key }} in {{ .metadata }}.labels && {{ .metadata }}.labels[{{ $key }}] == '{{ .word }}' ||
 has({{ .metadata }}.annotations) && {{ $key }} in {{ .metadata }}.annotations && {{ .metadata }}.annotations[{{ $key }}] == '{{ .word }}')
{{- end }}

{{- define "seamless-rollouts.workloadSays" -}}
{{- include "seamless-rollouts.says" (dict "metadata" "object.metadata" "word" .) }}
{{- end }}

{{- define "seamless-rollouts.templateSays" -}}
(has(object.spec) && has(object.spec.template) && has(object.spec.template.metadata) &&
 {{ include "seamless-rollouts.says" (dict "metadata" "object.spec.template.metadata" "word" .) | indent 1 | trim }})
{{- end }}

{{/*
Whether a record of what was injected lies on the workload or its pod template. A PUT drops it from
the new object: the old one still has it.
*/}}
{{- define "seamless-rollouts.recorded" -}}
{{- $key := "'seamless-rollouts.dev/injected'" -}}
[object, oldObject].exists(o, o != null && (
  has(o.metadata.annotations) && {{ $key }} in o.metadata.annotations ||
  has(o.spec) && has(o.spec.template) && has(o.spec.template.metadata) &&
  has(o.spec.template.metadata.annotations) && {{ $key }} in o.spec.template.metadata.annotations
))
{{- end }}

{{/*
For namespaces in scope: everything but what says `disabled`. The workload beats its template, and on
one object `disabled` beats `enabled`. What bears a record is sent all the same, so that it can leave.
*/}}
{{- define "seamless-rollouts.unlessDisabled" -}}
{{ include "seamless-rollouts.recorded" . }} || !(
  {{ include "seamless-rollouts.workloadSays" "disabled" | nindent 2 | trim }} ||
  !{{ include "seamless-rollouts.workloadSays" "enabled" | nindent 2 | trim }} &&
  {{ include "seamless-rollouts.templateSays" "disabled" | nindent 2 | trim }}
)
{{- end }}

{{/* For all other namespaces: only what says `enabled` itself, or bears a record. */}}
{{- define "seamless-rollouts.ifEnabled" -}}
{{ include "seamless-rollouts.recorded" . }} ||
!{{ include "seamless-rollouts.workloadSays" "disabled" }} && (
  {{ include "seamless-rollouts.workloadSays" "enabled" | nindent 2 | trim }} ||
  {{ include "seamless-rollouts.templateSays" "enabled" | nindent 2 | trim }} &&
  !{{ include "seamless-rollouts.templateSays" "disabled" | nindent 2 | trim }}
)
{{- end }}

{{/* The rules: only kinds that are switched on, never a subresource. */}}
{{- define "seamless-rollouts.rules" -}}
{{- $resources := list }}
{{- range $kind, $resource := dict "Deployment" "deployments" "StatefulSet" "statefulsets" "DaemonSet" "daemonsets" }}
{{- if has $kind $.Values.kinds }}
{{- $resources = append $resources $resource }}
{{- end }}
{{- end }}
{{- with $resources }}
- apiGroups: [apps]
  apiVersions: [v1]
  resources: {{ sortAlpha . | toJson }}
  operations: [CREATE, UPDATE]
  scope: Namespaced
{{- end }}
{{- if has "Rollout" .Values.kinds }}
- apiGroups: [argoproj.io]
  apiVersions: [v1alpha1]
  resources: [rollouts]
  operations: [CREATE, UPDATE]
  scope: Namespaced
{{- end }}
{{- end }}

{{/* What all entries have in common. */}}
{{- define "seamless-rollouts.entry" -}}
admissionReviewVersions: [v1]
clientConfig:
  # In mode self-managed there is no caBundle here: the pods own that field, and whoever else
  # rendered it would take it from them at every upgrade.
  service:
    name: {{ include "seamless-rollouts.fullname" . }}
    namespace: {{ .Release.Namespace | quote }}
    path: /mutate
    port: 443
  {{- with .Values.certificates.provided.caBundle }}
  caBundle: {{ contains "BEGIN CERTIFICATE" . | ternary (b64enc .) (nospace .) }}
  {{- end }}
failurePolicy: {{ .Values.webhook.failurePolicy }}
matchPolicy: Equivalent
reinvocationPolicy: IfNeeded
sideEffects: {{ .Values.events.enabled | ternary "NoneOnDryRun" "None" }}
timeoutSeconds: {{ .Values.webhook.timeoutSeconds }}
{{- end }}

{{/* What every workload must fulfil. */}}
{{- define "seamless-rollouts.conditions" -}}
- name: not-being-deleted
  expression: "!has(object.metadata.deletionTimestamp)"
{{- if has "Rollout" .Values.kinds }}
# A Rollout with a workloadRef has no pod template of its own: its Deployment is sent.
- name: own-template
  expression: "!has(object.spec) || !has(object.spec.workloadRef) || object.spec.workloadRef == null || object.spec.workloadRef == {}"
{{- end }}
{{- end }}
