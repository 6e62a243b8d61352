{{- define "sluice.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The release's name, with the chart's unless that is in it already. */}}
{{- define "sluice.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "sluice.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "sluice.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "sluice.serviceAccountName" -}}
{{- if .Values.serviceAccount.name -}}
{{- .Values.serviceAccount.name -}}
{{- else if .Values.serviceAccount.create -}}
{{- include "sluice.fullname" . -}}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{- define "sluice.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Never changes with the version: a DaemonSet's selector can't. */}}
{{- define "sluice.selector" -}}
app.kubernetes.io/name: {{ include "sluice.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "sluice.labels" -}}
{{ include "sluice.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (replace "+" "_" .Chart.Version) }}
{{- end -}}

{{- define "sluice.securityContext" -}}
{{- if .Values.securityContext -}}
{{ toYaml .Values.securityContext }}
{{- else -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
  add: {{ if .Values.xdp.enabled }}[BPF, NET_ADMIN, PERFMON]{{ else }}[NET_BIND_SERVICE]{{ end }}
{{- end -}}
{{- end -}}

{{- define "sluice.podSecurityContext" -}}
{{- if .Values.podSecurityContext -}}
{{ toYaml .Values.podSecurityContext }}
{{- else -}}
seccompProfile:
  type: RuntimeDefault
{{- if .Values.xdp.enabled }}
appArmorProfile:
  type: Unconfined
{{- end }}
{{- end -}}
{{- end -}}

{{- define "sluice.container" -}}
image: {{ include "sluice.image" . }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
terminationMessagePolicy: FallbackToLogsOnError
envFrom:
- configMapRef:
    name: {{ include "sluice.fullname" . }}
securityContext:
  {{- include "sluice.securityContext" . | nindent 2 }}
volumeMounts:
{{- if .Values.xdp.enabled }}
- name: bpffs
  mountPath: /sys/fs/bpf
  mountPropagation: HostToContainer
{{- end }}
- name: run
  mountPath: /run/sluice
{{- end -}}

{{/* A value as a text. Helm writes large numbers as 1e+06. */}}
{{- define "sluice.text" -}}
{{ kindIs "string" . | ternary . (toJson .) | quote }}
{{- end -}}

{{/* The variables that have values of their own, and which. */}}
{{- define "sluice.fixed" -}}
SLUICE_INTERFACE: xdp.interfaces
SLUICE_XDP_MODE: xdp.mode
SLUICE_FLOWS: xdp.flows
SLUICE_NO_XDP: xdp.enabled
SLUICE_VIP: listen.vips
SLUICE_HTTP_PORT: listen.httpPort
SLUICE_HTTPS_PORT: listen.httpsPort
SLUICE_COMPAT: ingress.compat
SLUICE_ADOPT_CLASS: ingress.adoptClasses
SLUICE_SERVE_CLASSLESS: ingress.serveClassless
SLUICE_DEFAULT_BACKEND: ingress.defaultBackend
SLUICE_DEFAULT_CERTIFICATE: ingress.defaultCertificate
SLUICE_SERVICE_VIPS: services.vips
{{- if .Values.clusterSettings }}
SLUICE_CONFIG_MAP: clusterSettings
{{- end }}
SLUICE_NO_STATUS: status.enabled
SLUICE_PUBLISH_SERVICE: status.publishService
SLUICE_PUBLISH_ADDRESS: status.publishAddresses
SLUICE_ACCESS_LOG: accessLog
SLUICE_DRAIN_TIMEOUT: drainTimeout
SLUICE_TRUSTED_PROXY: trustedProxies
SLUICE_LOG: log.filter
SLUICE_LOG_FORMAT: log.format
SLUICE_HEALTH: health
{{- end -}}
