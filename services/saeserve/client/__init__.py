"""The Python SDK: numpy in and out, typed results and errors. Needs neither torch nor Redis.

>>> from saeserve.client import Client
>>> client = Client()
>>> features = client.encode("my-sae@prod", activations)  # numpy [..., d_in]
"""

from saeserve.client.access import Access as Access
from saeserve.client.client import Client as Client
from saeserve.client.errors import ClientError as ClientError
from saeserve.client.feature_values import FeatureFilter as FeatureFilter
from saeserve.client.features import SparseFeatures as SparseFeatures
from saeserve.client.reconstruction import Reconstruction as Reconstruction
