{{/* The chart's name. */}}
{{- define "seamless-rollouts.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/*
The name of every object; 50 characters leave room for the longest suffix in names that may have
no more than 63. A release's name may have dots, a Service's may not.
*/}}
{{- define "seamless-rollouts.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | replace "." "-" | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | replace "." "-" | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "seamless-rollouts.selectorLabels" -}}
app.kubernetes.io/name: {{ include "seamless-rollouts.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "seamless-rollouts.podLabels" -}}
{{ include "seamless-rollouts.selectorLabels" . }}
app.kubernetes.io/component: webhook
app.kubernetes.io/part-of: seamless-rollouts
{{- with merge (dict) (default dict .Values.podLabels) (default dict .Values.commonLabels) }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "seamless-rollouts.labels" -}}
{{ include "seamless-rollouts.selectorLabels" . }}
app.kubernetes.io/component: webhook
app.kubernetes.io/part-of: seamless-rollouts
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "seamless-rollouts.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "seamless-rollouts.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The image, by digest where one is given. */}}
{{- define "seamless-rollouts.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "seamless-rollouts.priorityClassName" -}}
{{- if .Values.priorityClassName }}
{{- .Values.priorityClassName }}
{{- else if .Values.priorityClass.create }}
{{- include "seamless-rollouts.fullname" . }}
{{- end }}
{{- end }}

{{/* The Secret that holds the CA in mode self-managed. */}}
{{- define "seamless-rollouts.caSecretName" -}}
{{- include "seamless-rollouts.fullname" . }}-ca
{{- end }}

{{/* The Secret with the pair that is served, in the other modes. */}}
{{- define "seamless-rollouts.tlsSecretName" -}}
{{- if eq .Values.certificates.mode "provided" }}
{{- .Values.certificates.provided.secretName }}
{{- else }}
{{- include "seamless-rollouts.fullname" . }}-tls
{{- end }}
{{- end }}

{{/* A value as text. Helm may hold a whole number as a float, which would be written as 1e+06. */}}
{{- define "seamless-rollouts.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/*
The configuration file. A key that is null in the values has been taken out of them by Helm:
precheck.runAsUser must then be written as null, for absent means 65532.
*/}}
{{- define "seamless-rollouts.configuration" -}}
{{- $defaults := dict }}
{{- range $name, $value := .Values.defaults }}
{{- $_ := set $defaults $name (include "seamless-rollouts.text" $value) }}
{{- end }}
{{- $kindDefaults := dict }}
{{- range $kind, $settings := .Values.kindDefaults }}
{{- $texts := dict }}
{{- range $name, $value := $settings }}
{{- $_ := set $texts $name (include "seamless-rollouts.text" $value) }}
{{- end }}
{{- $_ := set $kindDefaults $kind $texts }}
{{- end }}
{{- $user := dict "runAsUser" nil }}
{{- if hasKey .Values.precheck "runAsUser" }}
{{- $_ := set $user "runAsUser" (int64 .Values.precheck.runAsUser) }}
{{- end }}
{{- $resources := dict }}
{{- range $kind, $quantities := default dict .Values.precheck.resources }}
{{- $texts := dict }}
{{- range $name, $value := default dict $quantities }}
{{- $_ := set $texts $name (include "seamless-rollouts.text" $value) }}
{{- end }}
{{- $_ := set $resources $kind $texts }}
{{- end }}
{{- dict
  "scope" .Values.scope
  "mode" .Values.mode
  "invalidSettings" .Values.invalidSettings
  "applyDefaultsTo" .Values.applyDefaultsTo
  "kinds" .Values.kinds
  "excludedNamespaces" .Values.excludedNamespaces
  "exclude" .Values.exclude
  "defaults" $defaults
  "kindDefaults" $kindDefaults
  "precheck" (dict
    "image" (default (include "seamless-rollouts.image" .) .Values.precheck.image)
    "imagePullPolicy" .Values.precheck.imagePullPolicy
    "runAsUser" $user.runAsUser
    "resources" $resources
  )
  "awsReadinessGates" .Values.awsReadinessGates
  | toYaml }}
{{- end }}

{{/* Namespaces that are never touched, whatever the values say; as JSON. Patterns are no names. */}}
{{- define "seamless-rollouts.excludedNamespaces" -}}
{{- $names := list "kube-system" "kube-public" "kube-node-lease" .Release.Namespace }}
{{- range .Values.excludedNamespaces }}
{{- if not (contains "*" .) }}
{{- $names = append $names . }}
{{- end }}
{{- end }}
{{- $names | uniq | sortAlpha | toJson }}
{{- end }}

{{/* What the schema cannot say, or not clearly. */}}
{{- define "seamless-rollouts.check" -}}
{{- if and (eq .Values.certificates.mode "provided") (not .Values.certificates.provided.secretName) }}
{{- fail "certificates.provided.secretName: empty: with certificates.mode=provided, name the Secret that holds tls.crt and tls.key" }}
{{- end }}
{{- if and .Values.certificates.provided.caBundle (ne .Values.certificates.mode "provided") }}
{{- fail (printf "certificates.provided.caBundle: only with certificates.mode=provided: with %s the CA comes from there" .Values.certificates.mode) }}
{{- end }}
{{- range $index, $item := .Values.exclude }}
{{- with get $item "kind" }}
{{- $kind := printf "^%s$" (include "seamless-rollouts.regex" .) }}
{{- if not (or (regexMatch $kind "Deployment") (regexMatch $kind "StatefulSet") (regexMatch $kind "DaemonSet") (regexMatch $kind "Rollout")) }}
{{- fail (printf "exclude.%d.kind: %s: expected one of Deployment, StatefulSet, DaemonSet, Rollout, or a pattern that takes one" $index .) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.clientCA.configMapName .Values.clientCA.secretName }}
{{- fail "clientCA: set configMapName or secretName, not both" }}
{{- end }}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) }}
{{- fail (printf "autoscaling.minReplicas: %d: more than maxReplicas, %d" (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) }}
{{- end }}
{{- with .Values.backfill.job }}
{{- if and .timeZone (not .window) }}
{{- fail (printf "backfill.job.timeZone: %s: says whose hours backfill.job.window means, which is empty" .timeZone) }}
{{- end }}
{{- $times := splitList "-" (default "" .window) }}
{{- if and .window (eq (first $times) (last $times)) }}
{{- fail (printf "backfill.job.window: %s: expected two times of day that differ, such as 22:00-06:00" .window) }}
{{- end }}
{{- end }}
{{- if eq (int .Values.ports.https) (int .Values.ports.health) }}
{{- fail (printf "ports: https and health must differ, both are %d" (int .Values.ports.https)) }}
{{- end }}
{{- end }}

{{/* Whether `helm test` has anything to test: not where nothing is patched. */}}
{{- define "seamless-rollouts.testable" -}}
{{- $excluded := include "seamless-rollouts.excludedNamespaces" . | fromJsonArray }}
{{- $pattern := include "seamless-rollouts.excludedNamespacePattern" . }}
{{- if and .Values.webhook.enabled (eq .Values.mode "patch") (has "Deployment" .Values.kinds) (not (has .Values.tests.namespace $excluded)) (not (and $pattern (regexMatch $pattern .Values.tests.namespace))) }}true{{ end }}
{{- end }}
